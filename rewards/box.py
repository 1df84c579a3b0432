"""Box rewards: IoU for one box, Hungarian soft-F1 for several.

What lives here: the geometry and the two rewards over it. What does not: reading boxes out of a response,
and the corpus metrics of an evaluation (boxmed_ray/evaluate), which call the same functions.

Floors: a malformed answer is 0, so is a wrong number of boxes for IoU, and a box that is inverted, empty or not
finite has area 0 and hence IoU 0 with everything. Nothing to find and an explicit none is 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from rewards.sample import MALFORMED, BoxT, Sample, Score, flags_of

FLOOR = 0.0
MAX_BOXES = 64
"""A response with more boxes is scored as malformed: matching is cubic and no X-ray needs them."""
_LIMIT = 1e9


def pairwise_iou(
    first: Sequence[BoxT] | NDArray[np.float64], second: Sequence[BoxT] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """IoU of every box of ``first`` (n) with every box of ``second`` (m), as an (n, m) array in [0, 1].

    Inverted, empty and non-finite boxes have area 0 and therefore IoU 0.
    """
    a, b = _clean(first), _clean(second)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=-1)
    union = _area(a)[:, None] + _area(b)[None, :] - overlap
    return np.clip(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0), 0, 1)


def iou(first: BoxT, second: BoxT) -> float:
    """IoU of two boxes, in [0, 1]."""
    return float(pairwise_iou([first], [second])[0, 0])


def answer_iou(predicted: Sequence[BoxT] | None, target: Sequence[BoxT]) -> float:
    """How well an answer places what it was asked for, in [0, 1] (arXiv 2504.18453 eq. 6-9 for one box).

    One target box: IoU of the single predicted box. Several: mean IoU of the best one-to-one matching.
    A wrong number of boxes or None (malformed) is 0; an empty answer to an empty target is 1.
    """
    if predicted is None or len(predicted) != len(target) or len(predicted) > MAX_BOXES:
        return FLOOR
    if not target:
        return 1.0
    return _matched_iou(predicted, target) / len(target)


def soft_f1(predicted: Sequence[BoxT] | None, target: Sequence[BoxT]) -> float:
    """2S / (n_pred + n_gt) with S the IoU summed over the Hungarian matching, in [0, 1]; symmetric.

    Both empty is 1, one empty is 0, None (malformed) is 0. An exact copy of a box counts in the denominator
    but matches nothing unless the other side repeats that very box: otherwise one box said twice would be
    paid twice when it touches two targets.
    """
    if predicted is None or len(predicted) > MAX_BOXES:
        return FLOOR
    if not predicted and not target:
        return 1.0
    if not predicted or not target:
        return 0.0
    total = _matched_iou(_matchable(predicted, target), _matchable(target, predicted))
    return min(1.0, 2 * total / (len(predicted) + len(target)))


class IouReward:
    """R_IoU of arXiv 2504.18453: see ``answer_iou``."""

    def score(self, batch: Sequence[Sample]) -> list[Score]:
        """One Score per sample, in [0, 1]."""
        return [_score("iou", answer_iou(s.boxes, s.target_boxes), s) for s in batch]


class SoftF1Reward:
    """Soft-F1 of arXiv 2512.10691: see ``soft_f1``."""

    def score(self, batch: Sequence[Sample]) -> list[Score]:
        """One Score per sample, in [0, 1]."""
        return [_score("soft_f1", soft_f1(s.boxes, s.target_boxes), s) for s in batch]


def _score(name: str, value: float, sample: Sample) -> Score:
    flags = flags_of(sample)
    if sample.boxes is not None and len(sample.boxes) > MAX_BOXES:
        flags |= {MALFORMED}
    return Score(value, {name: value}, flags)


def _matched_iou(first: Sequence[BoxT], second: Sequence[BoxT]) -> float:
    matrix = pairwise_iou(first, second)
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    return float(matrix[rows, columns].sum())


def _matchable(boxes: Sequence[BoxT], other: Sequence[BoxT]) -> list[BoxT]:
    allowed = Counter(other)
    return [box for box, count in Counter(boxes).items() for _ in range(min(count, max(1, allowed[box])))]


def _clean(boxes: Sequence[BoxT] | NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    array[~np.isfinite(array).all(axis=1)] = 0
    return np.clip(array, -_LIMIT, _LIMIT)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    return area
