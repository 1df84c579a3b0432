"""The ban on vision placeholders as a vLLM logits processor: one operation a step for the whole batch.

What lives here: that. Per-request lists (``bad_words``, ``logit_bias``) are looped over in Python for
every sequence at every step; an allow-list keeps a vocabulary-wide mask for every sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

OPTION = "boxmed_banned_token_ids"
"""Key of the engine's ``additional_config`` that holds the ids."""


class BannedTokens(LogitsProcessor):
    """Sets the logits of fixed ids to minus infinity, for every request of the engine.

    It runs before temperature and before the log-probabilities are taken, so these are normalised over
    what may be sampled: the learner masks the same ids.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        options: dict[str, Any] = dict(vllm_config.additional_config or {})
        self._ids = torch.tensor(options[OPTION], dtype=torch.long, device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Ban, in place. ``logits`` is [sequences, vocabulary]."""
        return logits.index_fill_(1, self._ids, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        """A banned id may be the largest, so greedy decoding needs the ban too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """The ban is the same whatever the batch holds."""
