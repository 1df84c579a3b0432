"""A micro-batch of groups as a learner rank holds it.

What lives here: arrays of LearnGroups as padded tensors, and which prompts a bad number comes from.
What does not: the forward pass and the loss (learner.py).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from boxmed_ray.actors.learn_batch import LearnGroup
from boxmed_ray.model.shared_prefix import GroupInputs


class MicroBatch:
    """A micro-batch on this rank: [B, R] tensors over its B responses, right-padded.

    ``old`` and ``reference`` are filled while the batch is learned; ``bad`` names prompts with a
    non-finite loss.
    """

    def __init__(self, groups: list[LearnGroup], inputs: list[GroupInputs], device: torch.device) -> None:
        self.inputs = inputs
        self.filler = groups[0].filler
        self.ids = [group.id for group in groups for _ in group.lengths]
        rows = [row for g in groups for row in torch.from_numpy(g.logprobs.copy()).split(g.lengths.tolist())]
        self.sampled = pad_sequence(rows, batch_first=True).to(device)
        self.mask = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True).to(device)
        self.numbers = [group.number for group in groups]
        self.counts = [len(group.lengths) for group in groups]
        self.weigh(groups)
        self.old: Tensor | None = None
        self.reference: Tensor | None = None
        self.bad: list[str] = []

    def weigh(self, groups: list[LearnGroup]) -> None:
        """Take the advantages of ``groups``, which are this micro-batch's own."""
        advantages = [torch.from_numpy(group.advantages.copy()) for group in groups]
        self.advantages = torch.cat(advantages).to(self.sampled.device)

    def blame(self, logprobs: Tensor) -> list[str]:
        """Ids of the prompts with a non-finite number among their log-probabilities or advantages."""
        parts = [logprobs, self.sampled] + ([] if self.reference is None else [self.reference])
        fine = torch.isfinite(self.advantages)
        for part in parts:
            fine &= torch.isfinite(part.detach().masked_fill(~self.mask, 0.0)).all(1)
        return list(dict.fromkeys(identity for identity, good in zip(self.ids, fine.tolist(), strict=True) if not good))


def stack(groups: list[Tensor]) -> Tensor:
    """Per group [N, R_g] → [ΣN, R], padded on the right."""
    width = max(group.shape[1] for group in groups)
    return torch.cat([torch.nn.functional.pad(group, (0, width - group.shape[1])) for group in groups])
