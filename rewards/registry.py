"""Which rewards there are, and their weighted sum.

What lives here: the names, ``build`` and the Composite. What does not: any reward. Adding one is a file with
a class that has ``score`` and a line in ``REWARDS``, or a metric of report pairs in ``rewards/metrics.py``; a user's
own function needs neither: its name is ``module:function``.
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
from rewards.metrics import METRICS, build_reward, check_metric
from rewards.sample import SCORER_ERROR, Sample, Score, flags_of
from rewards.scorers import Paths

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
}
"""Name in a config → what builds the reward. Every metric of reports is one as well (METRICS)."""

FLOOR = 0.0
"""Component of a sample on which its scorer failed."""


def build(weights: Mapping[str, float], paths: Paths | None = None) -> Composite:
    """The weighted sum of the named rewards.

    Args:
        weights: name (or ``module:function``) → weight, any finite number.
        paths: where scorers lie (scorers.py).

    Raises:
        ValueError: what ``check`` refuses, or a scorer that cannot be read.
    """
    paths = paths or {}
    check(weights, paths)
    return Composite({name: (weight, _load(name, paths)) for name, weight in weights.items()})


def check(weights: Mapping[str, float], paths: Paths) -> None:
    """Refuse what cannot be built, without loading a model: for a run to fail before it starts.

    Raises:
        ValueError: no rewards, an unknown name, a module or function that cannot be imported, a weight that is
            not a finite number, or a scorer that is missing.
    """
    if not weights:
        raise ValueError(f"no reward is named; use at least one of: {_NAMES}")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"weight of reward {name!r} is {weight!r}; it must be a finite number")
        if _is_metric(name):
            check_metric(name, paths)
        elif name not in REWARDS:
            _function(name)


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


def _load(name: str, paths: Paths) -> Reward:
    if name in REWARDS:
        return REWARDS[name]()
    if _is_metric(name):
        return build_reward(name, paths)
    return FunctionReward(name, _function(name))


_NAMES = ", ".join((*REWARDS, *METRICS))


def _is_metric(name: str) -> bool:
    return name.replace("-", "_") in METRICS


def _function(name: str) -> Callable[[Sequence[Sample]], Sequence[float | Score]]:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"reward {name!r} is unknown; use one of: {_NAMES}, or module:function")
    try:
        function: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"reward {name!r} cannot be imported: {error}; the form is module:function") from error
    if not callable(function):
        raise ValueError(f"reward {name!r} is a {type(function).__name__}, not a function of a batch of samples")
    return function
