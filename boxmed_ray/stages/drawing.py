"""Which groups an update learns from: prompts in order, dynamic sampling, the overlong penalty.

What lives here: how many prompts an update draws and which of their groups it keeps. What does not:
sampling and scoring themselves (sampler.py), when an update is drawn (ahead.py), the formulas (grpo/sampling.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from boxmed_ray.actors.types import Prompt, ScoredGroup
from boxmed_ray.config import SVRConfig
from boxmed_ray.grpo.sampling import informative, overlong_penalty, refill_count


class Prompts:
    """All prompts of a stage, taken in order, by updates that may be drawn side by side.

    Args:
        prompts: in the order in which they are learned.
        state: of a checkpoint: how many were taken (``prompts_drawn``), and which of these no update has learned
            yet (``prompts_pending``): they are taken first, so that a resumed run skips and repeats none.
    """

    def __init__(self, prompts: Sequence[Prompt], state: Mapping[str, Any] | None = None) -> None:
        saved: dict[str, Any] = {"prompts_drawn": 0, "prompts_pending": []} | dict(state or {})
        self._prompts = prompts
        self._next: int = saved["prompts_drawn"]
        self._again: list[int] = list(saved["prompts_pending"])
        self._pending: dict[int, list[int]] = {}
        self._lock = threading.Lock()

    def take(self, update: int, count: int) -> list[Prompt]:
        """The next ``count`` for ``update``.

        Raises:
            ValueError: fewer are left. Learning would go on with less than was asked for, unseen.
        """
        with self._lock:
            old, self._again = self._again[:count], self._again[count:]
            end = self._next + count - len(old)
            if end > len(self._prompts):
                raise ValueError(f"prompts {self._next} to {end} are asked for, and there are {len(self._prompts)}")
            taken = [*old, *range(self._next, end)]
            self._next = end
            self._pending.setdefault(update, []).extend(taken)
        return [self._prompts[number] for number in taken]

    def learned(self, update: int) -> None:
        """``update`` is done with what it took."""
        with self._lock:
            self._pending.pop(update, None)

    @property
    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        with self._lock:
            pending = [number for update in sorted(self._pending) for number in self._pending[update]]
            return {"prompts_drawn": self._next, "prompts_pending": [*pending, *self._again]}


@dataclass(frozen=True)
class Drawn:
    """What was drawn for one update.

    Attributes:
        groups: all, in the order of their prompts.
        kept: those that are learned: with dynamic sampling the first ``prompts_per_step`` whose rewards differ,
            fewer or none where the limit came first; without it all.
        lost: prompts that were given up.
        seconds: by phase, of drawing.
    """

    groups: list[ScoredGroup]
    kept: list[ScoredGroup]
    lost: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def draw(
    sample: Callable[[Sequence[Prompt], int], list[ScoredGroup]],
    first: Sequence[Prompt],
    more: Callable[[int], Sequence[Prompt]],
    settings: SVRConfig,
) -> Drawn:
    """Draw the groups of one update.

    Args:
        sample: prompts and number of the round → their scored groups, in order; fewer where some were given up.
        first: ``settings.prompts_per_step`` prompts.
        more: number → as many further prompts; ``settings.draws`` in all at most.
        settings: whether groups without variance are replaced (DAPO, arXiv 2503.14476, eq. 11), and how long.
    """
    wanted = settings.prompts_per_step
    groups = sample(first, 0)
    if not settings.dynamic_sampling:
        return Drawn(groups, groups)
    kept, rounds, asked = with_variance(groups), 1, wanted
    while missing := refill_count(wanted, len(kept), asked, settings.draws):
        fresh = sample(more(missing), rounds)
        groups, kept, rounds, asked = groups + fresh, kept + with_variance(fresh), rounds + 1, asked + missing
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
