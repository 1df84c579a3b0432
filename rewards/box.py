"""Boxes of one answer: IoU for one box, Hungarian soft-F1 for several, average precision.

What lives here: the geometry, the two rewards over it, and RadVLM's AP. What does not: reading boxes out of a
response, COCO's mAP over a corpus (detection.py), and the means of an evaluation (boxmed_ray/evaluate).

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
AP_THRESHOLD = 0.5
_LIMIT = 1e9


def pairwise_iou(
    first: Sequence[BoxT] | NDArray[np.float64], second: Sequence[BoxT] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """IoU of every box of ``first`` (n) with every box of ``second`` (m), as an (n, m) array in [0, 1].

    Inverted, empty and non-finite boxes have area 0 and therefore IoU 0.
    """
    a, b = finite_boxes(first), finite_boxes(second)
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
    said, true = _hashable(predicted), _hashable(target)
    total = _matched_iou(_matchable(said, true), _matchable(true, said))
    return min(1.0, 2 * total / (len(predicted) + len(target)))


def average_precision(
    predicted: Sequence[BoxT] | None, target: Sequence[BoxT], threshold: float = AP_THRESHOLD
) -> float:
    """AP of one answer as RadVLM reports it, in [0, 1]; a corpus's mAP is the mean (arXiv 2502.03333, 2512.10691).

    Answers have no confidence: boxes count in the order they are said. Each claims the target it overlaps most, and is
    right if their IoU reaches ``threshold`` and nobody has claimed it before. AP is the area under the envelope of
    precision over recall. One or both sides empty, or malformed, is 0; so mAP is over prompts with a target.
    """
    if not predicted or not target or len(predicted) > MAX_BOXES:
        return FLOOR
    overlaps = pairwise_iou(predicted, target)
    claimed = overlaps.argmax(axis=1)
    close = np.flatnonzero(overlaps.max(axis=1) >= threshold)
    _, first = np.unique(claimed[close], return_index=True)
    right = np.sort(close[first])
    precision = np.arange(1, len(right) + 1) / (right + 1)
    envelope = np.maximum.accumulate(precision[::-1])
    return float(envelope.sum() / len(target))


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


def _hashable(boxes: Sequence[BoxT]) -> list[BoxT]:
    """The same boxes where they came as lists, as from JSON."""
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes]


def _matchable(boxes: Sequence[BoxT], other: Sequence[BoxT]) -> list[BoxT]:
    allowed = Counter(other)
    return [box for box, count in Counter(boxes).items() for _ in range(min(count, max(1, allowed[box])))]


def finite_boxes(boxes: Sequence[BoxT] | NDArray[np.float64]) -> NDArray[np.float64]:
    """The boxes as an (n, 4) array; a box that is not finite is all zeros."""
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    array[~np.isfinite(array).all(axis=1)] = 0
    return np.clip(array, -_LIMIT, _LIMIT)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    return area
