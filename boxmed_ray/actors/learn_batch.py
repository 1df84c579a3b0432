"""One update's worth of groups, split over learner ranks: no rank waits for another, none biases the mean.

What lives here: the light form in which groups travel, and the split. What does not: tensors of the
model (learner.py), advantages (grpo/).

Every rank gets the same number of micro-batches, because under ZeRO 2 and 3 each forward and backward
pass is collective. Where there are too few groups a rank computes a *filler*, which counts for nothing.
The normaliser is counted here, over all ranks, so a rank's share of the loss does not depend on the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from boxmed_ray.actors.types import ScoredGroup
from boxmed_ray.data.prompts import Task
from boxmed_ray.grpo.advantages import Scale, group_advantages

_PROMPT_COST = 64
"""Tokens that a group costs beside its responses: image and prompt, roughly."""


@dataclass(frozen=True, slots=True)
class LearnGroup:
    """A group as it travels to a learner: three arrays, and where its image is.

    Attributes:
        id: of the prompt, for messages.
        lengths: [N] tokens of each response, at least 1.
        token_ids: [Σ lengths] int64, the responses one after the other.
        logprobs: [Σ lengths] float32, as sampled.
        advantages: [N] float32.
        filler: computed for its collectives only; adds nothing to loss and metrics.
    """

    id: str
    image: str
    task: Task
    phrase: str | None
    lengths: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    advantages: NDArray[np.float32]
    filler: bool = False


@dataclass(frozen=True, slots=True)
class LearnBatch:
    """What one rank gets for one update.

    Attributes:
        micro: micro-batches, as many as every other rank has.
        tokens: response tokens of the update over all ranks.
        sequences: responses of the update over all ranks.
    """

    micro: list[list[LearnGroup]]
    tokens: int
    sequences: int


def learn_groups(scored: Sequence[ScoredGroup], scale: Scale) -> list[LearnGroup]:
    """Groups with their advantages, in the light form.

    Empty responses (a sampler that ends at once without an end token) are left out after the
    advantages are taken: there is nothing of them to learn, but the others are compared with them.

    Raises:
        ValueError: a reward is not finite; the message names the prompt.
    """
    for group in scored:
        if not np.isfinite(group.rewards).all():
            raise ValueError(f"prompt {group.group.prompt.id}: rewards must be finite, found {group.rewards.tolist()}")
    values = group_advantages([torch.from_numpy(np.array(group.rewards)) for group in scored], scale).values
    light = [_light(group, advantages.numpy()) for group, advantages in zip(scored, values, strict=True)]
    return [group for group in light if len(group.lengths)]


def split(groups: Sequence[LearnGroup], ranks: int, micro_groups: int) -> list[LearnBatch]:
    """Deal groups to ``ranks``, about as many tokens to each, in micro-batches of at most ``micro_groups``.

    Raises:
        ValueError: there are no groups.
    """
    if not groups:
        raise ValueError("an update needs at least one group with a response")
    hands = _deal(groups, ranks)
    count = max(-(-len(hand) // micro_groups) for hand in hands)
    filler = replace(min(groups, key=_cost), filler=True)
    tokens = sum(int(group.lengths.sum()) for group in groups)
    sequences = sum(len(group.lengths) for group in groups)
    return [LearnBatch([part or [filler] for part in _parts(hand, count)], tokens, sequences) for hand in hands]


def _light(scored: ScoredGroup, advantages: NDArray[np.float32]) -> LearnGroup:
    prompt = scored.group.prompt
    pairs = zip(scored.group.rollouts, advantages, strict=True)
    kept = [(rollout, advantage) for rollout, advantage in pairs if len(rollout.token_ids)]
    return LearnGroup(
        id=prompt.id,
        image=prompt.image,
        task=prompt.task,
        phrase=prompt.phrase,
        lengths=np.array([len(rollout.token_ids) for rollout, _ in kept], dtype=np.int64),
        token_ids=np.concatenate([np.zeros(0, np.int64), *(rollout.token_ids for rollout, _ in kept)]),
        logprobs=np.concatenate([np.zeros(0, np.float32), *(rollout.logprobs for rollout, _ in kept)]),
        advantages=np.array([advantage for _, advantage in kept], dtype=np.float32),
    )


def _cost(group: LearnGroup) -> int:
    return int(group.lengths.sum()) + _PROMPT_COST


def _deal(groups: Sequence[LearnGroup], ranks: int) -> list[list[LearnGroup]]:
    """Costliest first, each to the rank with the least so far among those that are not full."""
    full = -(-len(groups) // ranks)
    hands: list[list[LearnGroup]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for group in sorted(groups, key=_cost, reverse=True):
        rank = min((r for r in range(ranks) if len(hands[r]) < full), key=loads.__getitem__)
        hands[rank].append(group)
        loads[rank] += _cost(group)
    return hands


def _parts(hand: list[LearnGroup], count: int) -> list[list[LearnGroup]]:
    """``count`` parts that differ by at most one group, long groups beside short ones."""
    return [hand[i::count] for i in range(count)]
