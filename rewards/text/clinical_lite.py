"""clinical-lite: a cheap clinical score of a report that needs no download. It is not RadCliQ, nor a stand-in for it.

What lives here: agreement of the labels of two reports, and its mean with BERTScore. What does not: reading labels
(labels.py) and BERTScore (bertscore.py).

    clinical-lite = (label agreement + max(0, BERTScore)) / 2, in [0, 1]

Label agreement compares the status (positive, uncertain, negative, not mentioned) of 13 categories; No Finding follows
from the others and adds nothing. BERTScore is F1 with all-MiniLM-L6-v2 (Apache-2.0), last layer, neither rescaled nor
weighted. The weights have been chosen, not fitted to readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rewards.categories import NO_FINDING, Status
from rewards.text.bertscore import BertScore
from rewards.text.labels import label
from rewards.text.pair import check_pairs

MINILM_LAYERS = 6

WEIGHTS = {Status.POSITIVE: 1.0, Status.UNCERTAIN: 1.0, Status.NEGATIVE: 0.25}
"""What a category counts by its status: what is there weighs more than what is denied."""
HALF_RIGHT = 0.5
"""Credit of positive for uncertain, and of uncertain for positive."""


def label_agreement(reference: Mapping[str, Status], hypothesis: Mapping[str, Status]) -> float:
    """Weighted Dice of the mentioned categories, in [0, 1]; symmetric.

    2 Σ credit · min(weight) / Σ weights, credit 1 for the same status, ``HALF_RIGHT`` between positive and uncertain,
    else 0. 1 when neither side mentions a category, 0 when one does.
    """
    sides = [{c: s for c, s in side.items() if c != NO_FINDING} for side in (reference, hypothesis)]
    total = sum(WEIGHTS[status] for side in sides for status in side.values())
    if not total:
        return 1.0
    shared = sides[0].keys() & sides[1].keys()
    return 2 * sum(_credit(sides[0][category], sides[1][category]) for category in shared) / total


def _credit(first: Status, second: Status) -> float:
    if first is second:
        return WEIGHTS[first]
    return 0.0 if Status.NEGATIVE in (first, second) else HALF_RIGHT * WEIGHTS[first]


class ClinicalLite:
    """Label agreement and BERTScore in equal parts; a PairMetric. 0 where a text has no tokens."""

    name = "clinical_lite"

    def __init__(self, bertscore: BertScore) -> None:
        self._bertscore = bertscore

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One score a pair, in [0, 1]."""
        check_pairs(references, hypotheses)
        labels = {text: label(text) for text in {*references, *hypotheses}}
        matched = self._bertscore.score_pairs(references, hypotheses)
        return [
            (label_agreement(labels[reference], labels[hypothesis]) + max(0.0, f1)) / 2 if f1 else 0.0
            for reference, hypothesis, f1 in zip(references, hypotheses, matched, strict=True)
        ]
