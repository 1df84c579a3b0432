"""Format reward: 1 when the whole response matches the response form, else 0 (arXiv 2504.18453 eq. 9).

What lives here: turning the parser's verdict into a reward. What does not: the form itself, which the
caller's parser knows; a Sample carries its verdict.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.sample import Sample, Score, flags_of


class FormatReward:
    """R_format: 1 for a well-formed response, 0 otherwise (the floor)."""

    def score(self, batch: Sequence[Sample]) -> list[Score]:
        """One Score per sample, 0 or 1."""
        return [Score(value, {"format": value}, flags_of(s)) for s in batch for value in [float(s.well_formed)]]
