"""Which rewards there are, and their weighted sum.

What lives here: the names, ``build`` and the Composite. What does not: any reward. Adding one is a file with
a class that has ``score`` and a line in ``REWARDS``; a user's own function needs neither: its name is
``module:function``.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rewards.box import IouReward, SoftF1Reward
from rewards.format import FormatReward
from rewards.length import LengthReward
from rewards.sample import SCORER_ERROR, Sample, Score, flags_of
from rewards.text.bleu import Bleu2Reward

log = logging.getLogger(__name__)


class Reward(Protocol):
    """Scores responses; the score of one never depends on what else is in the batch."""

    def score(self, batch: Sequence[Sample]) -> list[Score]:
        """One Score per sample, in order."""
        ...


REWARDS: dict[str, Callable[[], Reward]] = {
    "iou": IouReward,
    "soft_f1": SoftF1Reward,
    "format": FormatReward,
    "length": LengthReward,
    "bleu_2": Bleu2Reward,
}
"""Name in a config → what builds the reward."""

FLOOR = 0.0
"""Component of a sample on which its scorer failed."""


def build(weights: Mapping[str, float]) -> Composite:
    """The weighted sum of the named rewards.

    Args:
        weights: name (or ``module:function``) → weight, any finite number.

    Raises:
        ValueError: no rewards, an unknown name, a module or function that cannot be imported, or a weight
            that is not a finite number. A run fails here, before it starts.
    """
    if not weights:
        raise ValueError(f"no reward is named; use at least one of: {', '.join(REWARDS)}")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"weight of reward {name!r} is {weight!r}; it must be a finite number")
    return Composite({name: (weight, _load(name)) for name, weight in weights.items()})


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


class FunctionReward:
    """A user's function ``f(batch) -> sequence of float or Score`` as a Reward."""

    def __init__(self, name: str, function: Callable[[Sequence[Sample]], Sequence[float | Score]]) -> None:
        self._name, self._function = name, function

    def score(self, batch: Sequence[Sample]) -> list[Score]:
        """What the function gives, numbers turned into Scores."""
        return [
            value if isinstance(value, Score) else Score(float(value), {self._name: float(value)})
            for value in self._function(batch)
        ]


def _load(name: str) -> Reward:
    if name in REWARDS:
        return REWARDS[name]()
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"reward {name!r} is unknown; use one of: {', '.join(REWARDS)}, or module:function")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"reward {name!r} cannot be imported: {error}; the form is module:function") from error
    if not callable(function):
        raise ValueError(f"reward {name!r} is a {type(function).__name__}, not a function of a batch of samples")
    return FunctionReward(name, function)
