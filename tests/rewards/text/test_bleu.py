"""BLEU-2 against NLTK, and the tokenisations by example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction
from nltk.translate.bleu_score import sentence_bleu as nltk_bleu

from rewards.text.bleu import Bleu2, radcliq_tokens, sentence_bleu, word_tokens

words = st.lists(st.sampled_from(["the", "heart", "is", "normal", "no", "effusion", "."]), min_size=1, max_size=12)


@pytest.mark.filterwarnings("ignore")
@given(words, words, st.sampled_from([1, 2, 4]))
def test_sentence_bleu_equals_nltk(hypothesis: list[str], reference: list[str], order: int):
    expected = nltk_bleu([reference], hypothesis, (1 / order,) * order, SmoothingFunction(0.1).method1)
    assert sentence_bleu(hypothesis, reference, order) == pytest.approx(float(expected), abs=1e-12)


def test_nothing_in_common_is_zero():
    assert sentence_bleu([], ["a"]) == sentence_bleu(["a"], []) == sentence_bleu(["a"], ["b"]) == 0


def test_tokens_by_example():
    assert radcliq_tokens("No effusion.  Heart: normal.") == ["no", "effusion", ".", "heart:", "normal", "."]
    assert word_tokens("A 1.5 cm well-defined nodule; Heart's normal.") == [
        "a", "1.5", "cm", "well-defined", "nodule", ";", "heart's", "normal", "."
    ]  # fmt: skip


def test_the_metric_is_one_for_the_reference_itself_and_zero_without_reference():
    assert Bleu2().score_pairs(["no effusion.", ""], ["No effusion.", "No effusion."]) == [pytest.approx(1), 0]
