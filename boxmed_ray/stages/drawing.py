"""Which groups an update learns from: prompts in order, dynamic sampling, the overlong penalty.

What lives here: how many prompts an update draws and which of their groups it keeps. What does not:
sampling and scoring themselves (reinforce.py gives them as a function), the formulas (grpo/sampling.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from boxmed_ray.actors.types import Prompt, ScoredGroup
from boxmed_ray.config import SVRConfig
from boxmed_ray.grpo.sampling import informative, overlong_penalty, refill_count


class Prompts:
    """All prompts of a stage, taken in order.

    Args:
        prompts: in the order in which they are learned.
        position: how many are taken already; part of every checkpoint, so that a resumed run skips and
            repeats none however many each update drew.
    """

    def __init__(self, prompts: Sequence[Prompt], position: int = 0) -> None:
        self._prompts, self.position = prompts, position

    def take(self, count: int) -> Sequence[Prompt]:
        """The next ``count``.

        Raises:
            ValueError: fewer are left. Learning goes on with less than was asked for otherwise, unseen.
        """
        end = self.position + count
        if end > len(self._prompts):
            raise ValueError(f"prompts {self.position} to {end} are asked for, and there are {len(self._prompts)}")
        taken = self._prompts[self.position : end]
        self.position = end
        return taken


@dataclass(frozen=True)
class Drawn:
    """What was drawn for one update.

    Attributes:
        groups: all, in the order of their prompts.
        kept: those that are learned: with dynamic sampling the first ``prompts_per_step`` whose rewards differ,
            fewer or none where the limit came first; without it all.
    """

    groups: list[ScoredGroup]
    kept: list[ScoredGroup]


def draw(sample: Callable[[Sequence[Prompt], int], list[ScoredGroup]], prompts: Prompts, settings: SVRConfig) -> Drawn:
    """Draw the groups of one update.

    Args:
        sample: prompts and number of the round → their scored groups, in order.
        prompts: taken from, ``settings.draws`` at most.
        settings: whether groups without variance are replaced (DAPO, arXiv 2503.14476, eq. 11), and how long.
    """
    wanted = settings.prompts_per_step
    groups = sample(prompts.take(wanted), 0)
    if not settings.dynamic_sampling:
        return Drawn(groups, groups)
    kept, rounds = with_variance(groups), 1
    while more := refill_count(wanted, len(kept), len(groups), settings.draws):
        fresh = sample(prompts.take(more), rounds)
        groups, kept, rounds = groups + fresh, kept + with_variance(fresh), rounds + 1
    return Drawn(groups, kept[:wanted])


def with_overlong_penalty(group: ScoredGroup, limit: int, buffer: int) -> ScoredGroup:
    """The group with ``overlong``, in [−1, 0], added to its rewards and named among their parts.

    Args:
        group: scored.
        limit: cap of a response in tokens.
        buffer: last tokens before it, over which the penalty grows.
    """
    lengths = [len(rollout.token_ids) for rollout in group.group.rollouts]
    penalty = np.array([overlong_penalty(length, limit, buffer) for length in lengths], dtype=np.float32)
    return replace(group, rewards=group.rewards + penalty, components=group.components | {"overlong": penalty})


def with_variance(groups: Sequence[ScoredGroup]) -> list[ScoredGroup]:
    """The groups whose rewards differ."""
    rewards = [torch.from_numpy(np.array(group.rewards)) for group in groups]
    return [groups[index] for index in informative(rewards)]
