"""Entity F1 and precision by hand."""

from __future__ import annotations

import pytest

from rewards.text.entities import EntityF1, EntityPrecision


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("No pneumothorax.", "There is no pneumothorax.", 1),
        ("No pneumothorax.", "There is a pneumothorax.", 0),
        ("No pneumothorax. Pleural effusion.", "Pleural effusion.", 2 / 3),
        ("No pneumothorax. Pleural effusion.", "Effusion. Edema. Edema.", 1 / 2),
        ("Pleural effusion.", "", 0),
        ("The patient is seen.", "The patient is seen.", 0),
    ],
)
def test_shared_findings_by_hand(reference: str, hypothesis: str, expected: float) -> None:
    assert EntityF1().score_pairs([reference], [hypothesis]) == [pytest.approx(expected)]
    assert EntityF1().score_pairs([hypothesis], [reference]) == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("No pneumothorax. Pleural effusion.", "Pleural effusion.", 1),
        ("Pleural effusion.", "No pneumothorax. Pleural effusion.", 1 / 2),
        ("Pleural effusion.", "Edema.", 0),
        ("Pleural effusion.", "", 0),
        ("", "Edema.", 0),
    ],
)
def test_precision_forgives_what_is_left_out(reference: str, hypothesis: str, expected: float) -> None:
    assert EntityPrecision().score_pairs([reference], [hypothesis]) == [pytest.approx(expected)]
