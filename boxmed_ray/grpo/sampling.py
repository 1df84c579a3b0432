"""Which groups are worth learning from, and rewards that depend on length.

What lives here: dynamic sampling and overlong shaping. What does not: sampling from a model (actors/rollout.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from boxmed_ray.grpo.advantages import is_flat


def informative(rewards: Sequence[Tensor]) -> list[int]:
    """Indices of the groups whose rewards [N] differ; the others have no gradient (DAPO, arXiv 2503.14476, eq. 11)."""
    return [index for index, group in enumerate(rewards) if not is_flat(group)]


def refill_count(wanted: int, kept: int, drawn: int, limit: int) -> int:
    """How many more prompts to draw so that ``wanted`` groups with variance come together.

    Extrapolates from the share kept so far, max(kept, 1) / drawn, and never asks for more than ``limit`` in all, so
    that a policy which solves (or fails) everything does not sample for ever.

    Args:
        wanted: groups of one update.
        kept: groups with variance so far.
        drawn: groups drawn so far, at least 1.
        limit: groups drawn at most, over all rounds of this update.
    """
    missing = wanted - kept
    if missing <= 0:
        return 0
    return max(0, min(math.ceil(missing * drawn / max(kept, 1)), limit - drawn))


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    """Soft punishment of responses that near the cap (DAPO, arXiv 2503.14476, eq. 13), to be added to the reward.

    0 up to limit − buffer, then linearly down to −1 at the limit and beyond.

    Args:
        length: tokens of the response.
        limit: cap on tokens.
        buffer: width of the slope in tokens, 1 … limit.

    Raises:
        ValueError: buffer outside 1 … limit.
    """
    if not 1 <= buffer <= limit:
        raise ValueError(f"buffer {buffer} must lie in 1 … {limit}, the cap")
    return -min(1.0, max(0.0, (length - (limit - buffer)) / buffer))
