"""Text metrics against NLTK and by hand."""

from __future__ import annotations

import pytest
from nltk.translate.bleu_score import corpus_bleu

from boxmed_ray.data.phantom import report_diseases
from boxmed_ray.evaluate.text import bleu_4, disease_f1, rouge_l, summarise_reports
from rewards.text.bleu import word_tokens

REFERENCES = [
    "There is a small nodule in the left lung. The heart size is normal. No pleural effusion.",
    "The heart is enlarged. There is a large right pleural effusion. No pneumothorax.",
]
HYPOTHESES = [
    "There is a large nodule in the left lung. The heart size is normal. No effusion.",
    "The heart is enlarged. There is a small right pleural effusion. There is no pneumothorax.",
]


def test_bleu_4_equals_nltk_on_the_same_tokens():
    expected = corpus_bleu([[word_tokens(r)] for r in REFERENCES], [word_tokens(h) for h in HYPOTHESES])
    assert bleu_4(REFERENCES, HYPOTHESES) == pytest.approx(expected, abs=1e-9)


def test_rouge_l_by_hand():
    assert rouge_l(["a b c d"], ["a x c"]) == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_same_text_is_one_and_unrelated_text_is_zero():
    assert bleu_4(REFERENCES, REFERENCES) == pytest.approx(1)
    assert rouge_l(REFERENCES, REFERENCES) == 1
    assert bleu_4(REFERENCES, ["", "xyz"]) == 0
    assert rouge_l(REFERENCES, ["", "xyz"]) == 0


def test_disease_f1_by_hand():
    truth = ["a b", "a", "b", ""]
    claims = ["a", "a c", "a", ""]
    macro, scores = disease_f1(truth, claims, str.split)
    assert scores["a"].f1 == pytest.approx(2 * 2 / (2 + 3))
    assert (scores["b"].f1, scores["c"].f1) == (0, 0)
    assert (scores["a"].precision, scores["a"].recall, scores["a"].n) == (pytest.approx(2 / 3), 1, 2)
    assert macro == pytest.approx(0.8 / 3)


def test_reports_that_assert_nothing_have_no_disease_score():
    assert disease_f1(["x"], ["y"], lambda _: ()) == (0, {})


def test_summary_with_the_phantoms_own_reader():
    result = summarise_reports(REFERENCES, HYPOTHESES, report_diseases)
    assert result.disease_f1 == 1
    assert set(result.disease_f1_per_label) == {"Lung Lesion", "Cardiomegaly", "Pleural Effusion"}
    assert (result.n, result.distinct) == (2, 2)


@pytest.mark.parametrize(("references", "hypotheses"), [([], []), (["a"], [])])
def test_what_does_not_pair_is_refused(references: list[str], hypotheses: list[str]):
    with pytest.raises(ValueError, match="must pair"):
        bleu_4(references, hypotheses)
