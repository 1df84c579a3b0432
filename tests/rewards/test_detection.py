"""Average precision: RadVLM's by its published steps, COCO's mAP by hand and by an own count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.box import MAX_BOXES, average_precision, iou
from rewards.detection import coco_map
from rewards.sample import BoxT

A: BoxT = (0, 0, 10, 10)
B: BoxT = (20, 20, 30, 30)
NAN = float("nan")

corner = st.integers(0, 60)
upright = st.tuples(corner, corner, st.integers(5, 60), st.integers(5, 60)).map(
    lambda v: (float(v[0]), float(v[1]), float(v[0] + v[2]), float(v[1] + v[3]))
)
some = st.lists(upright, max_size=6)
anything = st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4)


def test_ap_by_hand():
    assert average_precision([A, B], [A, B]) == 1
    assert average_precision([A], [A, B]) == 0.5
    assert average_precision([B, A], [A]) == 0.5
    assert average_precision([A, B], [A]) == 1
    assert average_precision([A, A], [A]) == 1
    assert average_precision([A, A, B], [A, B]) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision([(0, 0, 10, 5)], [A]) == 1
    assert average_precision([(0, 0, 10, 4.9)], [A]) == 0


def test_ap_floors():
    assert average_precision(None, [A]) == average_precision([], [A]) == average_precision([A], []) == 0
    assert average_precision([], []) == average_precision([A] * 500, [A]) == 0
    assert average_precision([(NAN, 0, 1, 1)], [A]) == average_precision([(-9, -9, -1, -1)], [A]) == 0


def radvlm(predicted: list[BoxT], target: list[BoxT], threshold: float) -> float:
    """The steps of RadVLM's evaluation, in a loop: claims, cumulated counts, envelope, area."""
    claimed, right = set(), []
    for box in predicted:
        best = max(range(len(target)), key=lambda j: (iou(box, target[j]), -j))
        right.append(iou(box, target[best]) >= threshold and best not in claimed)
        if right[-1]:
            claimed.add(best)
    hits = np.cumsum(right)
    precision = [*(hits / np.arange(1, len(right) + 1)), 0.0]
    recall = [0.0, *(hits / len(target))]
    return sum((recall[i + 1] - recall[i]) * max(precision[i:]) for i in range(len(right)))


@given(
    st.lists(upright, min_size=1, max_size=6), st.lists(upright, min_size=1, max_size=6), st.sampled_from([0.3, 0.5])
)
def test_ap_equals_the_published_steps(predicted: list[BoxT], target: list[BoxT], threshold: float):
    assert average_precision(predicted, target, threshold) == pytest.approx(radvlm(predicted, target, threshold))


@given(some, some, st.data())
def test_ap_is_in_range_and_further_boxes_after_the_others_cannot_lower_it(predicted, target, data):
    value = average_precision(predicted, target)
    assert 0 <= value <= 1
    assert average_precision(predicted + data.draw(some), target) >= value


@given(st.lists(anything, max_size=MAX_BOXES + 2), st.lists(anything, max_size=4))
def test_ap_of_anything_is_in_range(predicted: list[BoxT], target: list[BoxT]):
    assert 0 <= average_precision(predicted, target) <= 1


def test_coco_map_by_hand():
    assert coco_map([[A], [B]], [[A], [B]]).mean == pytest.approx(1)
    # One right, then one wrong: precision 1 up to recall .5, which 51 of COCO's 101 recall points do not exceed.
    half = coco_map([[A], [A]], [[A], [B]])
    assert half.at_50 == half.mean == pytest.approx(51 / 101)
    # IoU .7 counts up to the threshold .7: 5 of 10.
    near = coco_map([[(0, 0, 10, 7)]], [[A]])
    assert (near.mean, near.at_50, near.at_75) == (pytest.approx(0.5), pytest.approx(1), pytest.approx(0))


def test_coco_map_is_the_mean_over_labels_that_have_a_target():
    result = coco_map([[A], [A], [B]], [[A], [B], []], labels=["Edema", "Fracture", "Pneumonia"])
    assert result.mean == pytest.approx(0.5)


def test_coco_map_floors():
    for nothing in (None, [], [A] * 500, [(NAN, 0, 1, 1)], [(10, 10, 0, 0)], [(-9, -9, -1, -1)]):
        assert coco_map([nothing], [[A]]).mean == 0
    assert coco_map([[A], []], [[A], []]).mean == pytest.approx(1)
    with pytest.raises(ValueError, match="undefined"):
        coco_map([[A]], [[]])
    with pytest.raises(ValueError, match="1 answers, 2 targets"):
        coco_map([[A]], [[A], [A]])


def coco_at_50(predicted: list[list[BoxT]], target: list[list[BoxT]]) -> float:
    """COCO's AP at IoU .5 of one label: each box takes the free target it overlaps most; 101 recall points."""
    right = []
    for boxes, true in zip(predicted, target, strict=True):
        free = list(true)
        for box in boxes:
            best = max(reversed(free), key=lambda one: iou(box, one), default=None)
            right.append(best is not None and iou(box, best) >= 0.5)
            if right[-1]:
                free.remove(best)
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    recall = hits / sum(map(len, target))
    points = np.linspace(0, 1, 101)
    return float(np.mean([precision[recall >= point].max(initial=0) for point in points]))


@settings(max_examples=50)
@given(st.lists(st.tuples(some, some), min_size=1, max_size=5).filter(lambda rows: any(t for _, t in rows)))
def test_coco_map_at_50_equals_an_own_count(rows: list[tuple[list[BoxT], list[BoxT]]]):
    predicted, target = [list(p) for p, _ in rows], [list(t) for _, t in rows]
    assert coco_map(predicted, target).at_50 == pytest.approx(coco_at_50(predicted, target), abs=1e-9)


@given(st.lists(st.lists(anything, max_size=5), min_size=1, max_size=3))
@settings(max_examples=30)
def test_coco_map_of_anything_is_in_range(predicted: list[list[BoxT]]):
    assert 0 <= coco_map(predicted, [[A]] * len(predicted)).mean <= 1
