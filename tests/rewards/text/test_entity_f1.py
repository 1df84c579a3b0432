"""Entity F1 by hand."""

from __future__ import annotations

import pytest

from rewards.text.entity_f1 import EntityF1


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
