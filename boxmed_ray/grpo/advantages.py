"""Advantages: how much better a response is than the others of its group.

What lives here: rewards in, advantages out. What does not: the loss (loss.py), which groups to keep (sampling.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]

EPSILON = 1e-4
"""Added to a standard deviation before dividing by it."""
FLAT = 1e-6
"""Rewards whose range is at most this are equal up to rounding."""


@dataclass(frozen=True)
class Advantages:
    """Advantages of a batch of groups.

    Attributes:
        values: one tensor [N_g] per group, float32.
        flat: one flag per group: its rewards are all equal, so its advantages are exactly 0 and it teaches nothing.
    """

    values: list[Tensor]
    flat: list[bool]


def group_advantages(rewards: Sequence[Tensor], scale: Scale = "group") -> Advantages:
    """A_i = (r_i − mean of the group) / (s + ε).

    s by ``scale``: "group" the standard deviation of the group's rewards (GRPO, arXiv 2402.03300, eq. 4.1.2);
    "batch" that of all rewards of the batch (arXiv 2508.08221); "none" nothing is divided (Dr. GRPO, arXiv
    2503.20783, which shows that dividing by the group's own spread weights easy and hard prompts more).
    Standard deviations divide by N − 1, as torch's do. ε = 1e-4.

    Args:
        rewards: [N_g] finite rewards of each group of the whole batch (over all ranks where ``scale`` is "batch").
        scale: see above.

    Raises:
        ValueError: a group without responses, a reward that is not finite, or an unknown scale.
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale {scale!r} is unknown; use group, batch or none")
    groups = [group.to(torch.float32) for group in rewards]
    for index, group in enumerate(groups):
        if group.dim() != 1 or not len(group) or not bool(torch.isfinite(group).all()):
            raise ValueError(f"group {index}: rewards must be a row of finite numbers, found {group.tolist()}")
    flat = [is_flat(group) for group in groups]
    batch = _spread(torch.cat(groups)) if groups else torch.zeros(())
    values = []
    for group, same in zip(groups, flat, strict=True):
        centred = torch.zeros_like(group) if same else group - group.mean()
        if scale == "none":
            values.append(centred)
        else:
            values.append(centred / ((_spread(group) if scale == "group" else batch) + EPSILON))
    return Advantages(values, flat)


def is_flat(rewards: Tensor) -> bool:
    """Whether all rewards [N] of a group are equal, so that none of its advantages differs from 0."""
    return bool(rewards.max() - rewards.min() <= FLAT)


def _spread(rewards: Tensor) -> Tensor:
    return rewards.std() if len(rewards) > 1 else torch.zeros(())
