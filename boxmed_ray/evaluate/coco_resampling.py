"""COCO's mAP of any choice of prompts, from matches that are made once.

What lives here: matching inside each prompt, and precision over recall of a choice. What does not: COCO's mAP of one
corpus, which ``faster-coco-eval`` counts (rewards/detection.py) at a tenth of a second a time: a bootstrap wants
thousands. The two are equal (tests/evaluate/test_coco_resampling.py).

No prompt's matches depend on another prompt, and all boxes have confidence 1, so that COCO takes them in the order of
the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boxmed_ray.evaluate.figures import Rows
from rewards.box import MAX_BOXES, pairwise_iou
from rewards.sample import BoxT

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)


class CocoMatches:
    """The matches of a corpus of answers.

    Args:
        predicted: boxes of each prompt's answer; None (malformed) or more than MAX_BOXES count as none.
        target: true boxes of each prompt.
        labels: what each prompt is about.
    """

    def __init__(
        self, predicted: Sequence[Sequence[BoxT] | None], target: Sequence[Sequence[BoxT]], labels: Sequence[str]
    ) -> None:
        said = [boxes if boxes is not None and len(boxes) <= MAX_BOXES else () for boxes in predicted]
        self._right = [_match(boxes, truth) for boxes, truth in zip(said, target, strict=True)]
        self._targets = np.array([len(truth) for truth in target])
        self._labels = np.unique(np.array(labels), return_inverse=True)[1]

    def average_precision(self, rows: Rows) -> NDArray[np.float64]:
        """AP at each of THRESHOLDS, mean over the labels that have a target among the rows; NaN where none has.

        Args:
            rows: prompts, repeats counted.
        """
        ordered = np.sort(rows)
        labels = self._labels[ordered]
        of_label = [ordered[labels == label] for label in np.unique(labels)]
        curves = [self._of_one_label(chosen) for chosen in of_label if self._targets[chosen].any()]
        return np.mean(curves, axis=0) if curves else np.full(len(THRESHOLDS), np.nan)

    def _of_one_label(self, rows: Rows) -> NDArray[np.float64]:
        right = np.concatenate([self._right[row] for row in rows])
        if not len(right):
            return np.zeros(len(THRESHOLDS))
        hits = right.cumsum(axis=0)
        recall = hits / self._targets[rows].sum()
        precision = hits / np.arange(1, len(right) + 1)[:, None]
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        padded = np.concatenate([envelope, np.zeros((1, len(THRESHOLDS)))])
        reached = [np.searchsorted(recall[:, i], _RECALLS, side="left") for i in range(len(THRESHOLDS))]
        return np.array([padded[places, i].mean() for i, places in enumerate(reached)])


def _match(predicted: Sequence[BoxT], target: Sequence[BoxT]) -> NDArray[np.bool_]:
    """Whether each box (rows) is right at each threshold (columns): it takes the best target nobody has taken."""
    right = np.zeros((len(predicted), len(THRESHOLDS)), dtype=bool)
    if not len(target):
        return right
    overlaps = pairwise_iou(predicted, target)
    for column, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(target), dtype=bool)
        for row in range(len(predicted)):
            left = np.where(free, overlaps[row], -1.0)
            best = len(target) - 1 - int(left[::-1].argmax())  # COCO's choice among equals is the last
            if left[best] >= threshold:
                right[row, column], free[best] = True, False
    return right
