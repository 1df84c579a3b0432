"""clinical-lite: label agreement by hand, symmetry, and the order it puts reports in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.categories import CATEGORIES, Status
from rewards.scorers import minilm_folder
from rewards.text.bertscore import BertScore
from rewards.text.clinical_lite import MINILM_LAYERS, ClinicalLite, label_agreement

P, U, N = Status.POSITIVE, Status.UNCERTAIN, Status.NEGATIVE
labels = st.dictionaries(st.sampled_from(CATEGORIES), st.sampled_from(Status))


def test_agreement_by_hand():
    assert label_agreement({"Edema": P}, {"Edema": P}) == 1
    assert label_agreement({"Edema": P}, {"Edema": U}) == 0.5
    assert label_agreement({"Edema": P}, {"Edema": N}) == 0
    assert label_agreement({"Edema": P, "Fracture": N}, {"Edema": P}) == pytest.approx(2 / 2.25)
    assert label_agreement({"Edema": P}, {"Pneumonia": P}) == 0


def test_no_finding_adds_nothing_and_silence_agrees_with_silence_alone():
    assert label_agreement({"No Finding": P}, {"No Finding": P}) == 1
    assert label_agreement({"No Finding": P, "Pneumothorax": N}, {"No Finding": P}) == 0


@given(labels, labels)
def test_agreement_is_symmetric_and_in_its_range(first: dict[str, Status], second: dict[str, Status]):
    assert 0 <= label_agreement(first, second) <= 1
    assert label_agreement(first, second) == pytest.approx(label_agreement(second, first))
    assert label_agreement(first, first) == 1


@pytest.fixture(scope="module")
def metric() -> ClinicalLite:
    return ClinicalLite(BertScore(minilm_folder(), layers=MINILM_LAYERS, device="cpu"))


def test_the_meaning_of_a_report_orders_the_scores(metric: ClinicalLite):
    reference = "Small left pleural effusion. Heart size is normal. No pneumothorax."
    hypotheses = [
        reference,
        "There is a small effusion on the left. The heart is not enlarged; no pneumothorax.",
        "No pleural effusion. The heart is enlarged. No pneumothorax.",
        "The weather is nice today.",
        "",
    ]
    scores = metric.score_pairs([reference] * len(hypotheses), hypotheses)
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert scores == sorted(scores, reverse=True)
    assert scores[1] - scores[2] > 0.3
    assert scores[-1] == 0
