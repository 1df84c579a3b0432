"""IoU and soft-F1: hand calculations, a peer library, and properties."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from rewards.box import MAX_BOXES, IouReward, SoftF1Reward, answer_iou, iou, pairwise_iou, soft_f1
from rewards.sample import BoxT, Sample

A: BoxT = (0, 0, 10, 10)
B: BoxT = (20, 20, 30, 30)

corner = st.integers(0, 1000)
upright = st.tuples(corner, corner, st.integers(1, 500), st.integers(1, 500)).map(
    lambda v: (float(v[0]), float(v[1]), float(v[0] + v[2]), float(v[1] + v[3]))
)
anything = st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4)
some = st.lists(upright, max_size=5)


def test_iou_by_hand():
    assert iou(A, A) == 1
    assert iou(A, B) == 0
    assert iou(A, (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert iou(A, (0, 0, 5, 5)) == pytest.approx(0.25)
    assert iou(A, (10, 0, 20, 10)) == 0


@pytest.mark.parametrize("box", [(10, 10, 0, 0), (3, 3, 3, 9), (0, 0, math.nan, 5), (0, 0, math.inf, 10)])
def test_degenerate_boxes_have_no_overlap_even_with_themselves(box: BoxT):
    assert iou(box, box) == 0
    assert iou(box, A) == 0


@given(st.lists(upright, min_size=1, max_size=6), st.lists(upright, min_size=1, max_size=6))
def test_pairwise_iou_agrees_with_torchvision(first: list[BoxT], second: list[BoxT]):
    expected = box_iou(torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    np.testing.assert_allclose(pairwise_iou(first, second), expected.numpy(), atol=1e-12)


@given(anything, anything)
def test_iou_of_anything_is_in_range_and_symmetric(first: BoxT, second: BoxT):
    value = iou(first, second)
    assert 0 <= value <= 1
    assert value == pytest.approx(iou(second, first))


def test_answer_iou_floors():
    assert answer_iou([(0, 0, 5, 5)], [A]) == pytest.approx(0.25)
    assert answer_iou(None, [A]) == 0
    assert answer_iou(None, []) == 0
    assert answer_iou([], [A]) == 0
    assert answer_iou([A, A], [A]) == 0
    assert answer_iou([A], []) == 0
    assert answer_iou([], []) == 1


def test_answer_iou_of_several_targets_ignores_their_order():
    assert answer_iou([B, (0, 0, 5, 5)], [A, B]) == pytest.approx((1 + 0.25) / 2)


def test_soft_f1_by_hand():
    assert soft_f1([A], [A, B]) == pytest.approx(2 / 3)
    assert soft_f1([(0, 0, 5, 5), B], [A, B]) == pytest.approx(2 * 1.25 / 4)
    assert soft_f1([], []) == 1
    assert soft_f1([], [A]) == soft_f1([A], []) == soft_f1(None, [A]) == soft_f1(None, []) == 0


@given(st.lists(upright, min_size=1, max_size=4, unique=True), st.lists(upright, min_size=1, max_size=4, unique=True))
def test_soft_f1_is_the_best_assignment_found_by_trying_all(predicted: list[BoxT], target: list[BoxT]):
    few, many = sorted((predicted, target), key=len)
    best = max(
        sum(iou(a, b) for a, b in zip(few, order, strict=True)) for order in itertools.permutations(many, len(few))
    )
    assert soft_f1(predicted, target) == pytest.approx(2 * best / (len(few) + len(many)))


@given(some, some, st.randoms())
def test_soft_f1_is_symmetric_in_range_and_ignores_order(predicted: list[BoxT], target: list[BoxT], random):
    value = soft_f1(predicted, target)
    assert 0 <= value <= 1
    assert value == pytest.approx(soft_f1(target, predicted))
    shuffled = random.sample(predicted, len(predicted))
    assert value == pytest.approx(soft_f1(shuffled, target))


@given(st.lists(upright, min_size=1, max_size=5), st.lists(upright, max_size=5, unique=True), st.data())
def test_repeating_a_box_never_raises_soft_f1(predicted: list[BoxT], target: list[BoxT], data):
    copies = data.draw(st.lists(st.sampled_from(predicted), min_size=1, max_size=5))
    assert soft_f1(predicted + copies, target) <= soft_f1(predicted, target) + 1e-12


def test_repeating_one_box_between_two_targets_is_not_paid_twice():
    between = (0, 0, 20, 10)
    left, right = (0, 0, 10, 10), (10, 0, 20, 10)
    assert soft_f1([between, between], [left, right]) < soft_f1([between], [left, right])


def test_targets_that_repeat_a_box_can_still_be_met():
    assert soft_f1([A, A], [A, A]) == 1


def test_boxes_may_come_as_lists_as_json_has_them():
    lists = json.loads(json.dumps([A, B, B]))
    assert soft_f1(lists, [list(A), list(B)]) == soft_f1([A, B, B], [A, B])
    assert answer_iou(lists[:2], [list(A), list(B)]) == 1


@given(st.lists(anything, max_size=4), some)
def test_anything_scores_within_range(predicted: list[BoxT], target: list[BoxT]):
    for function in (soft_f1, answer_iou):
        assert 0 <= function(predicted, target) <= 1


@pytest.mark.parametrize("reward", [IouReward(), SoftF1Reward()])
def test_five_hundred_boxes_are_malformed(reward: IouReward | SoftF1Reward):
    [score] = reward.score([Sample("", (A,) * 500, True, (A,) * 500)])
    assert score.value == 0
    assert "malformed" in score.flags
    assert MAX_BOXES == 64
