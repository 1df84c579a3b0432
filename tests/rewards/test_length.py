"""The length band and its slopes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.length import HARD_LIMIT, SOFT_LIMIT, LengthReward, length_penalty
from rewards.sample import Sample


@pytest.mark.parametrize(
    ("length", "reference", "expected"),
    [
        (0, 100, -1), (25, 100, -0.5), (50, 100, 0), (100, 100, 0), (150, 100, 0), (225, 100, -0.5), (300, 100, -1),
        (9999, 100, -1), (0, None, -1), (1, None, 0), (SOFT_LIMIT, None, 0),
        ((SOFT_LIMIT + HARD_LIMIT) // 2, None, -0.5), (HARD_LIMIT, None, -1), (1, 1, 0),
    ],
)  # fmt: skip
def test_band_by_hand(length: int, reference: int | None, expected: float):
    assert length_penalty(length, reference) == pytest.approx(expected)


@given(st.integers(0, 10**9), st.none() | st.integers(1, 10**6))
def test_always_between_minus_one_and_zero(length: int, reference: int | None):
    assert -1 <= length_penalty(length, reference) <= 0


def test_truncated_response_gets_the_floor():
    [score] = LengthReward().score([Sample("a" * 100, (), True, (), target_text="b" * 100, truncated=True)])
    assert score.value == -1
    assert score.flags == {"truncated"}
