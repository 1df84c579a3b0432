"""Dynamic sampling and overlong shaping."""

from __future__ import annotations

import pytest
import torch

from boxmed_ray.grpo.sampling import informative, overlong_penalty, refill_count


def test_only_groups_with_variance_are_informative() -> None:
    assert informative([torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0])]) == [1]


def test_refill_extrapolates_from_the_share_kept_and_stops_at_the_limit() -> None:
    assert refill_count(wanted=8, kept=8, drawn=10, limit=100) == 0
    assert refill_count(wanted=8, kept=4, drawn=8, limit=100) == 8  # half are kept: 4 missing need 8
    assert refill_count(wanted=8, kept=3, drawn=8, limit=100) == 14  # 5 * 8 / 3 = 13.3
    assert refill_count(wanted=8, kept=0, drawn=8, limit=20) == 12
    assert refill_count(wanted=8, kept=0, drawn=20, limit=20) == 0


def test_overlong_penalty_falls_linearly_to_minus_one() -> None:
    assert [overlong_penalty(n, limit=100, buffer=20) for n in (1, 80, 85, 90, 100, 120)] == [0, 0, -0.25, -0.5, -1, -1]
    with pytest.raises(ValueError, match="buffer"):
        overlong_penalty(1, limit=10, buffer=11)
