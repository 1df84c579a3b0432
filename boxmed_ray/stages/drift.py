"""When a reward grows in a way that it should not: the rules, on numbers alone.

What lives here: what was measured of the starting model, the last measurements, and the two rules. What does not:
measuring (actors/reward.py), when, and whom to tell (cheating.py).

    score rule    the reward is ``drift`` or more above the starting model, and the mean of the held-out scorers
                  ``drift`` or more below, in standard deviations of the starting model's responses; a scorer counts
                  for one at most, as some hardly vary at the start
    length rule   the mean length of a response over that of the starting model is outside ``length_band``

Both look at the mean of the last ``window`` measurements, and ring once until they hold no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from boxmed_ray.actors.types import HELD_OUT, Measured
from boxmed_ray.config import WatchConfig

REWARD, LENGTH = "reward", "characters"


@dataclass(frozen=True, slots=True)
class Alarm:
    """A rule that rings.

    Attributes:
        rule: "score" or "length".
        message: what was seen, in words.
    """

    rule: str
    message: str


@dataclass
class Drift:
    """One task's measurements and rules.

    Attributes:
        start: of the starting model; None before the first measurement.
        recent: means of the last ones, oldest first.
        ringing: rules that hold.
    """

    settings: WatchConfig
    start: dict[str, tuple[float, float]] | None = None
    recent: list[dict[str, float]] = field(default_factory=list)
    ringing: list[str] = field(default_factory=list)

    def add(self, measured: Measured) -> list[Alarm]:
        """Take a measurement, the first as the starting model's; the rules that begin to ring."""
        if self.start is None:
            self.start = dict(measured)
            return []
        means = {name: mean for name, (mean, _) in measured.items()}
        self.recent = [*self.recent, means][-self.settings.window :]
        if len(self.recent) < self.settings.window:
            return []
        alarms = [alarm for alarm in (self._score(), self._length()) if alarm is not None]
        fresh = [alarm for alarm in alarms if alarm.rule not in self.ringing]
        self.ringing = [alarm.rule for alarm in alarms]
        return fresh

    def _score(self) -> Alarm | None:
        assert self.start is not None
        held_out = {name for name, (_, spread) in self.start.items() if name.startswith(HELD_OUT) and spread}
        shifts = [shift for name in sorted(held_out) if (shift := self._shift(name)) is not None]
        rise = self._shift(REWARD)
        drift = self.settings.drift
        if rise is None or not shifts or rise < drift or fmean(max(-1.0, min(1.0, s)) for s in shifts) > -drift:
            return None
        words = ", ".join(self._words(name) for name in sorted(held_out))
        return Alarm("score", f"{self._words(REWARD)}, while what is not rewarded falls: {words}")

    def _length(self) -> Alarm | None:
        assert self.start is not None
        low, high = self.settings.length_band
        ratio = self._mean(LENGTH) / max(1.0, self.start[LENGTH][0])
        if low <= ratio <= high:
            return None
        return Alarm(
            "length", f"{self._words(LENGTH)}, {ratio:.2f} of the starting model ({low:g} to {high:g} allowed)"
        )

    def _shift(self, name: str) -> float | None:
        """In standard deviations of the starting model; None where it has none."""
        assert self.start is not None
        mean, spread = self.start[name]
        return (self._mean(name) - mean) / spread if spread else None

    def _mean(self, name: str) -> float:
        return fmean(means[name] for means in self.recent)

    def _words(self, name: str) -> str:
        assert self.start is not None
        return f"{name.removeprefix(HELD_OUT)} {self.start[name][0]:.3g} → {self._mean(name):.3g}"

    @property
    def state(self) -> dict[str, Any]:
        """For a checkpoint; ``Drift(settings, **state)`` goes on from it."""
        return {"start": self.start, "recent": self.recent, "ringing": self.ringing}
