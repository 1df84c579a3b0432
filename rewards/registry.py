"""Which rewards there are, and their weighted sum.

What lives here: the names, what each reads, and ``build``. What does not: any reward, and their sum (composite.py).
Adding one is a file with a class that has ``score`` and a line in ``REWARDS``, or a metric of report pairs in
``rewards/metrics.py``; a user's own function needs neither: its name is ``module:function``.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rewards.box import IouReward, SoftF1Reward
from rewards.composite import Composite, Reward
from rewards.format import FormatReward
from rewards.joint import JointReward
from rewards.length import LengthReward
from rewards.metrics import METRICS, Loaded, check_metric
from rewards.sample import BOXES, REPORT, Sample, Score
from rewards.scorers import MissingScorerError, Paths, locate


@dataclass(frozen=True, slots=True)
class Entry:
    """How a reward is made.

    Attributes:
        build: from the metrics that are loaded already.
        reads: of a sample: BOXES, REPORT. Where responses hold none the reward would be alike for all.
        parts: rewards that it is made of.
    """

    build: Callable[[Loaded], Reward]
    reads: frozenset[str] = frozenset()
    parts: tuple[str, ...] = ()


def _joint(name: str, report: str) -> Entry:
    return Entry(
        lambda loaded: JointReward(name, report, loaded.reward(report)), frozenset({BOXES, REPORT}), (report, "soft_f1")
    )


REWARDS: Final[Mapping[str, Entry]] = {
    "iou": Entry(lambda _: IouReward(), frozenset({BOXES})),
    "soft_f1": Entry(lambda _: SoftF1Reward(), frozenset({BOXES})),
    "format": Entry(lambda _: FormatReward()),
    "length": Entry(lambda _: LengthReward()),
    "joint_lite": _joint("joint_lite", "clinical_lite"),
    "joint_radcliq_v1": _joint("joint_radcliq_v1", "radcliq_v1"),
}
"""Name in a config → what builds the reward. Every metric of reports is one as well (METRICS)."""


def build(weights: Mapping[str, float], paths: Paths | None = None, loaded: Loaded | None = None) -> Composite:
    """The weighted sum of the named rewards.

    Args:
        weights: name (or ``module:function``) → weight, any finite number.
        paths: where scorers lie (scorers.py).
        loaded: metrics to share with other rewards of the process, and their paths; new ones without.

    Raises:
        ValueError: what ``check`` refuses, or a scorer that cannot be read.
    """
    loaded = loaded or Loaded(paths or {})
    check(weights, loaded.paths)
    return Composite({name: (weight, _load(name, loaded)) for name, weight in weights.items()})


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
        if name not in REWARDS and not _is_metric(name):
            _function(name)
        for metric in metrics_of([name]):
            check_metric(metric, paths)


def metrics_of(names: Iterable[str]) -> list[str]:
    """The metrics that rewards are or are made of, each once, as METRICS names them."""
    parts = (part for name in names for part in (REWARDS[name].parts if name in REWARDS else (name,)))
    return list(dict.fromkeys(known(part) for part in parts if _is_metric(part)))


def known(name: str) -> str:
    """The name as METRICS has it, where it is a metric's; any other as it is."""
    return name.replace("-", "_") if _is_metric(name) else name


def reads(name: str) -> frozenset[str]:
    """What a reward reads of a sample, BOXES or REPORT; of a user's function nothing is known."""
    if _is_metric(name):
        return frozenset({REPORT})
    return REWARDS[name].reads if name in REWARDS else frozenset()


def held_out(rewarded: Collection[str], asked: frozenset[str], paths: Paths) -> list[str]:
    """What can measure responses that are rewarded otherwise, and loads nothing that the rewards do not load.

    Args:
        rewarded: names.
        asked: what responses hold, BOXES and REPORT.
        paths: where scorers lie.
    """
    names = {known(name) for name in rewarded}
    names |= {part for name in names if name in REWARDS for part in REWARDS[name].parts}
    metrics = [METRICS[name] for name in names if name in METRICS]
    there = {need for metric in metrics for need in metric.needs} | (
        {"minilm"} if _is_there("minilm", paths) else set()
    )
    simple = [name for name, entry in REWARDS.items() if not entry.parts and entry.reads <= asked]
    texts = [name for name, metric in METRICS.items() if REPORT in asked and there.issuperset(metric.needs)]
    return [name for name in (*simple, *texts) if name not in names]


def _is_there(resource: str, paths: Paths) -> bool:
    try:
        locate(resource, paths)
    except MissingScorerError:
        return False
    return True


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


def _load(name: str, loaded: Loaded) -> Reward:
    if name in REWARDS:
        return REWARDS[name].build(loaded)
    if _is_metric(name):
        return loaded.reward(name)
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
