"""One update's worth of groups, split over learner ranks: no rank waits for another, none biases the mean.

What lives here: the light form in which groups travel, and the split. What does not: tensors of the
model (learner.py), advantages (grpo/).

A micro-batch holds as many groups as fit a budget of tokens, because tokens and not groups are what a
pass costs in memory. Every rank gets the same number of micro-batches, because under ZeRO 2 and 3 each
forward and backward pass is collective. Where there are too few groups a rank computes a *filler*,
which counts for nothing.
The normaliser is counted here, over all ranks, so a rank's share of the loss does not depend on the split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from boxmed_ray.actors.types import ScoredGroup
from boxmed_ray.data.prompts import Task
from boxmed_ray.grpo.advantages import Scale, group_advantages
from boxmed_ray.model.dealing import deal


@dataclass(frozen=True, slots=True)
class LearnGroup:
    """A group as it travels to a learner: three arrays, and where its image is.

    Attributes:
        id: name of the prompt, for messages.
        number: place among the scored groups of the update.
        prompt_tokens: of the prompt with its image, which the learner computes once.
        lengths: [N] tokens of each response, at least 1.
        token_ids: [Σ lengths] int64, the responses one after the other.
        logprobs: [Σ lengths] float32, as sampled.
        advantages: [N] float32.
        filler: computed for its collectives only; adds nothing to loss and metrics.
    """

    id: str
    number: int
    prompt_tokens: int
    image: str
    task: Task
    phrase: str | None
    lengths: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    advantages: NDArray[np.float32]
    filler: bool = False

    @property
    def tokens(self) -> int:
        """What the group costs in a forward pass: its prompt once, and all its responses."""
        return self.prompt_tokens + int(self.lengths.sum())


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


def learn_groups(
    scored: Sequence[ScoredGroup], scale: Scale, penalties: Sequence[NDArray[np.float32]] | None = None
) -> list[LearnGroup]:
    """Groups with their advantages, in the light form.

    Empty responses (a sampler that ends at once without an end token) are left out after the
    advantages are taken: there is nothing of them to learn, but the others are compared with them.

    Args:
        scored: groups of the whole update.
        scale: of the advantages.
        penalties: [N] for each group, subtracted from its rewards first. A group with a penalty that is not
            finite gets advantages that are not: the step will be skipped and its prompt named.

    Raises:
        ValueError: a reward is not finite; the message names the prompt.
    """
    for group in scored:
        if not np.isfinite(group.rewards).all():
            raise ValueError(
                f"prompt {group.group.prompt.name}: rewards must be finite, found {group.rewards.tolist()}"
            )
    less = [np.zeros_like(group.rewards) for group in scored] if penalties is None else penalties
    fine = [bool(np.isfinite(penalty).all()) for penalty in less]
    rewards = [
        torch.from_numpy(np.array(group.rewards - penalty if good else group.rewards))
        for group, penalty, good in zip(scored, less, fine, strict=True)
    ]
    values = [
        advantages.numpy() if good else np.full(len(advantages), np.nan, np.float32)
        for advantages, good in zip(group_advantages(rewards, scale).values, fine, strict=True)
    ]
    light = [_light(number, group, values[number]) for number, group in enumerate(scored)]
    return [group for group in light if len(group.lengths)]


def kl_penalties(
    scored: Sequence[ScoredGroup], divergences: Mapping[int, NDArray[np.float32]], beta: float
) -> list[NDArray[np.float32]]:
    """β · KL of every response, [N] for each group; 0 for an empty response.

    Args:
        scored: groups of the whole update.
        divergences: KL of the responses that are not empty, by the group's number.
        beta: weight.
    """
    penalties = []
    for number, group in enumerate(scored):
        learned = np.array([len(rollout.token_ids) > 0 for rollout in group.group.rollouts])
        penalty = np.zeros(len(learned), np.float32)
        if learned.any():
            penalty[learned] = beta * divergences[number]
        penalties.append(penalty)
    return penalties


def split(groups: Sequence[LearnGroup], ranks: int, micro_tokens: int) -> list[LearnBatch]:
    """Deal groups to ``ranks``, about as many tokens to each, in micro-batches of at most ``micro_tokens`` tokens.

    A group with more tokens than that is a micro-batch of its own. There are as few micro-batches as the
    budget allows, as many for one rank as for another, of about equal size.

    Raises:
        ValueError: there are no groups.
    """
    if not groups:
        raise ValueError("an update needs at least one group with a response")
    hands = _level(groups, ranks)
    count = max(1, *(-(-sum(min(group.tokens, micro_tokens) for group in hand) // micro_tokens) for hand in hands))
    while any(_exceeds(part, micro_tokens) for hand in hands for part in _level(hand, count)):
        count += 1
    filler = replace(min(groups, key=lambda group: group.tokens), filler=True)
    tokens = sum(int(group.lengths.sum()) for group in groups)
    sequences = sum(len(group.lengths) for group in groups)
    return [LearnBatch([part or [filler] for part in _level(hand, count)], tokens, sequences) for hand in hands]


def _light(number: int, scored: ScoredGroup, advantages: NDArray[np.float32]) -> LearnGroup:
    prompt = scored.group.prompt
    pairs = zip(scored.group.rollouts, advantages, strict=True)
    kept = [(rollout, advantage) for rollout, advantage in pairs if len(rollout.token_ids)]
    return LearnGroup(
        id=prompt.name,
        number=number,
        prompt_tokens=scored.group.prompt_tokens,
        image=prompt.image,
        task=prompt.task,
        phrase=prompt.phrase,
        lengths=np.array([len(rollout.token_ids) for rollout, _ in kept], dtype=np.int64),
        token_ids=np.concatenate([np.zeros(0, np.int64), *(rollout.token_ids for rollout, _ in kept)]),
        logprobs=np.concatenate([np.zeros(0, np.float32), *(rollout.logprobs for rollout, _ in kept)]),
        advantages=np.array([advantage for _, advantage in kept], dtype=np.float32),
    )


def _exceeds(part: Sequence[LearnGroup], micro_tokens: int) -> bool:
    return len(part) > 1 and sum(group.tokens for group in part) > micro_tokens


def _level(groups: Sequence[LearnGroup], count: int) -> list[list[LearnGroup]]:
    """``count`` parts of about as many tokens."""
    return [[groups[i] for i in part] for part in deal([group.tokens for group in groups], count)]
