"""Dynamic sampling, overlong shaping and the dealing of groups to ranks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxmed_ray.grpo.batching import plan
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


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 2000), st.integers(1, 9)
)
def test_every_group_counts_once_and_ranks_have_equally_many_micro_batches(
    costs: list[int], ranks: int, budget: int, max_groups: int
) -> None:
    shares = plan(costs, ranks, budget, max_groups)
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    counted = sorted(index for share in shares for micro in share if micro.counts for index in micro.groups)
    assert counted == list(range(len(costs)))
    for share in shares:
        for micro in share:
            assert 1 <= len(micro.groups) <= max_groups
            assert len(micro.groups) == 1 or sum(costs[i] for i in micro.groups) <= budget
    loads = [sum(costs[i] for micro in share if micro.counts for i in micro.groups) for share in shares]
    assert max(loads) - min(loads) <= max(costs)
