"""Batches made ready ahead: the same ones in the same order, errors where they belong, no thread left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxmed_ray.stages.prefetch import Prefetch
from boxmed_ray.stages.train_loop import batch_indices


def test_values_come_in_order_and_no_more_than_asked_for_are_made() -> None:
    made: list[int] = []
    with Prefetch(lambda step: made.append(step) or step * step, 3, 9, ahead=2) as values:
        assert values.take() == 9
        time.sleep(0.05)
        assert made == [3, 4, 5]  # the one that was taken, and two more
        assert [values.take() for _ in range(5)] == [16, 25, 36, 49, 64]
    assert made == [3, 4, 5, 6, 7, 8]


def test_an_error_is_raised_where_its_value_is_taken() -> None:
    def make(step: int) -> int:
        if step == 1:
            raise ValueError("image 1")
        return step

    with Prefetch(make, 0, 3) as values:
        assert values.take() == 0
        with pytest.raises(ValueError, match="image 1"):
            values.take()


def test_what_is_made_while_the_caller_works_is_not_waited_for() -> None:
    def make(step: int) -> int:
        time.sleep(0.05)
        return step

    with Prefetch(make, 0, 4) as values:
        values.take()
        assert values.waited > 0.03  # the first is made before anybody works
        for _ in range(3):
            time.sleep(0.15)
            values.take()
            assert values.waited < 0.03


def test_its_thread_ends_with_the_block() -> None:
    before = threading.active_count()
    with Prefetch(lambda step: step, 0, 100):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


Batches = Callable[[int], list[int]]


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 60),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 12),
    data=st.data(),
)
def test_order_depends_on_seed_and_epoch_alone_and_goes_on_at_any_position(
    count: int, size: int, seed: int, steps: int, data: st.DataObject
) -> None:
    def batch(step: int) -> list[int]:
        return batch_indices(step, size, count, seed)

    def taken(start: int) -> list[list[int]]:
        with Prefetch(batch, start, steps) as batches:
            return [batches.take() for _ in range(start, steps)]

    whole = taken(0)
    position = data.draw(st.integers(0, steps))
    assert taken(position) == whole[position:]
    flat = [index for each in whole for index in each]
    for begin in range(0, len(flat) - count + 1, count):
        assert sorted(flat[begin : begin + count]) == list(range(count))
