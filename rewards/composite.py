"""What a reward is, and the weighted sum of several.

What lives here: the protocol, the sum, and what becomes of a scorer that fails. What does not: names (registry.py).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from rewards.sample import SCORER_ERROR, Sample, Score, flags_of

log = logging.getLogger(__name__)

FLOOR = 0.0
"""Component of a sample on which its scorer failed."""


class Reward(Protocol):
    """Scores responses; the score of one never depends on what else is in the batch."""

    def score(self, batch: Sequence[Sample]) -> list[Score]:
        """One Score per sample, in order."""
        ...


class Composite:
    """Σ weight · reward, itself a Reward.

    A scorer that raises, or gives a value that is not finite, gets the floor 0 on the samples it failed on
    alone, and those carry the flag ``scorer_error``; the first failure of each scorer is logged. Whoever learns from
    the scores decides what to do with a flagged group.
    """

    def __init__(self, parts: Mapping[str, tuple[float, Reward]]) -> None:
        self._parts = dict(parts)
        self._reported: set[str] = set()

    @property
    def weights(self) -> dict[str, float]:
        """Name → weight."""
        return {name: weight for name, (weight, _) in self._parts.items()}

    def score(self, batch: Sequence[Sample]) -> list[Score]:
        """One Score per sample; components are the plain values of the parts, before their weights."""
        columns = {name: self._column(name, reward, batch) for name, (_, reward) in self._parts.items()}
        return [
            self._sum(sample, {name: column[i] for name, column in columns.items()}) for i, sample in enumerate(batch)
        ]

    def _sum(self, sample: Sample, parts: Mapping[str, Score]) -> Score:
        components: dict[str, float] = {}
        for name, part in parts.items():
            components |= {f"{name}.{key}": value for key, value in part.components.items() if key != name}
            components[name] = part.value
        flags = flags_of(sample).union(*(part.flags for part in parts.values()))
        return Score(math.fsum(self._parts[name][0] * part.value for name, part in parts.items()), components, flags)

    def _column(self, name: str, reward: Reward, batch: Sequence[Sample]) -> list[Score]:
        try:
            scores = reward.score(batch)
        except Exception as error:  # a user's scorer may raise anything; one bad sample must not stop a run
            self._report(name, error)
            if len(batch) == 1:
                return [Score(FLOOR, {}, frozenset({SCORER_ERROR}))]
            return [self._column(name, reward, [sample])[0] for sample in batch]
        if len(scores) != len(batch):
            raise ValueError(f"reward {name!r} returned {len(scores)} scores for {len(batch)} samples")
        return [self._finite(name, score) for score in scores]

    def _finite(self, name: str, score: Score) -> Score:
        if math.isfinite(score.value):
            return score
        self._report(name, ValueError(f"value {score.value!r} is not a finite number"))
        return Score(FLOOR, {}, score.flags | {SCORER_ERROR})

    def _report(self, name: str, error: Exception) -> None:
        if name not in self._reported:
            self._reported.add(name)
            log.error("reward %r failed on a sample, which gets %g and a flag", name, FLOOR, exc_info=error)
