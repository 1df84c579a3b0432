"""Advantages against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from boxmed_ray.grpo.advantages import group_advantages, is_flat

REWARDS = [torch.tensor([0.0, 1.0, 2.0, 1.0]), torch.tensor([5.0, 5.0]), torch.tensor([1.0, 4.0])]


def test_group_scaling_divides_by_the_groups_own_spread() -> None:
    result = group_advantages(REWARDS, "group")
    # group 1: mean 1, squares 1 + 0 + 1 + 0 over N - 1 = 3; group 3: mean 2.5, spread sqrt(2 * 1.5^2 / 1)
    first, third = math.sqrt(2 / 3) + 1e-4, math.sqrt(4.5) + 1e-4
    torch.testing.assert_close(result.values[0], torch.tensor([-1 / first, 0.0, 1 / first, 0.0]))
    torch.testing.assert_close(result.values[2], torch.tensor([-1.5 / third, 1.5 / third]))


def test_batch_scaling_divides_by_the_spread_of_all_rewards() -> None:
    # 0 1 2 1 5 5 1 4: mean 19/8, sum of squares 73
    spread = math.sqrt((73 - 19 * 19 / 8) / 7) + 1e-4
    result = group_advantages(REWARDS, "batch")
    torch.testing.assert_close(result.values[0], torch.tensor([-1.0, 0.0, 1.0, 0.0]) / spread)
    torch.testing.assert_close(result.values[2], torch.tensor([-1.5, 1.5]) / spread)


def test_no_scaling_only_subtracts_the_mean() -> None:
    result = group_advantages(REWARDS, "none")
    torch.testing.assert_close(result.values[2], torch.tensor([-1.5, 1.5]))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_groups_without_variance_are_flagged_and_get_zero(scale: str) -> None:
    # 0.1 + 0.2 differs from 0.3 by rounding, which must not become an advantage
    rewards = [torch.tensor([0.3, 0.1 + 0.2, 0.3]), torch.tensor([0.0, 1.0]), torch.tensor([7.0])]
    result = group_advantages(rewards, scale)  # type: ignore[arg-type]
    assert result.flat == [True, False, True]
    assert result.values[0].tolist() == [0.0, 0.0, 0.0]
    assert result.values[2].tolist() == [0.0]
    assert is_flat(rewards[0])


def test_bad_rewards_are_refused_by_group() -> None:
    with pytest.raises(ValueError, match="group 1"):
        group_advantages([torch.tensor([0.0, 1.0]), torch.tensor([0.0, float("nan")])])
    with pytest.raises(ValueError, match="unknown"):
        group_advantages(REWARDS, "rank")  # type: ignore[arg-type]
