"""Length reward: 0 inside a band, falling linearly to -1 outside it.

What lives here: the band and its two slopes. What does not: tokens; length is counted in characters, which
every tokenizer agrees on.

With a reference text it is the report that counts, and the band is [1/2, 3/2] of the reference's length, -1 at nothing
and at three times the reference. Without one it is the whole response, and the band reaches from 1 character to
``SOFT_LIMIT``, -1 at ``HARD_LIMIT`` and for empty text. A truncated response is -1: it would have gone on.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.sample import Sample, Score, flags_of
from rewards.text.pair import said

SOFT_LIMIT, HARD_LIMIT = 1000, 2000
"""Characters, for responses without a reference text."""
FLOOR = -1.0


def length_penalty(length: int, reference: int | None) -> float:
    """The reward of a response of ``length`` characters, in [-1, 0]; ``reference`` in characters or None."""
    if length <= 0:
        return FLOOR
    short, soft, hard = (
        (reference / 2, 1.5 * reference, 3.0 * reference) if reference else (1.0, SOFT_LIMIT, HARD_LIMIT)
    )
    if length < short:
        return length / short - 1
    return -min(1.0, max(0.0, (length - soft) / (hard - soft)))


class LengthReward:
    """Penalty for responses that are much longer or shorter than they need be."""

    def score(self, batch: Sequence[Sample]) -> list[Score]:
        """One Score per sample, in [-1, 0]."""
        return [self._one(sample) for sample in batch]

    @staticmethod
    def _one(sample: Sample) -> Score:
        reference = len(sample.target_text.strip()) if sample.target_text else None
        text = sample.text if reference is None else said(sample)
        value = FLOOR if sample.truncated else length_penalty(len(text.strip()), reference)
        return Score(value, {"length": value}, flags_of(sample))
