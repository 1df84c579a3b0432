"""When a pool grows and when it shrinks: a rule on a few numbers, with its reason in words.

What lives here: the decision. What does not: workers, Ray and time itself (pool.py calls with its clock).

    grow     somebody waits, work is queued that no worker can take, and that has held for ``grow_after_s``
    shrink   for ``shrink_after_s`` fewer workers had work at once than there are

Two memories keep it from swinging: a pool does not grow while a worker is starting, and a change begins the
window of shrinking anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How many workers there may be.

    Attributes:
        min: kept although they have nothing to do; 0 is legal, the first work starts one.
        max: never exceeded.
    """

    min: int
    max: int

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max or self.max < 1:
            raise ValueError(f"workers from {self.min} to {self.max}: 0 ≤ min ≤ max and max ≥ 1 must hold")


@dataclass(frozen=True, slots=True)
class Pace:
    """How quickly a pool follows its load.

    Attributes:
        grow_after_s: seconds that somebody has waited for queued work before workers are added.
        shrink_after_s: seconds over which the largest number of busy workers is what the pool keeps. Above the
            time of a step, or a strictly on-policy run, whose workers rest while the learner learns, would lose
            workers in every step.
    """

    grow_after_s: float = 5.0
    shrink_after_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a pool looks like at one moment.

    Attributes:
        queued: units of work that no worker has.
        capacity: units that one worker holds.
        busy: workers with work.
        serving: workers that can take work.
        starting: workers that are not ready yet.
        waiting: whether somebody waits for results.
    """

    queued: int
    capacity: int
    busy: int
    serving: int
    starting: int
    waiting: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """Workers to add (above 0) or to end (below 0), and why."""

    change: int
    reason: str


class Scaler:
    """Decides, one moment after the other.

    Args:
        limits: of the number of workers.
        pace: of changes.
    """

    def __init__(self, limits: Limits, pace: Pace) -> None:
        self.limits, self._pace = limits, pace
        self._pressed_since: float | None = None
        self._peaks: deque[tuple[float, int]] = deque()  # times and busy workers, falling: the first is the peak
        self._watched_since: float | None = None

    def decide(self, now: float, load: Load) -> Decision | None:
        """What to change at ``now`` seconds (of any clock that only runs forward); None for nothing."""
        self._remember(now, load.busy)
        size = load.serving + load.starting
        decision = self._outside(size) or self._grow(now, load, size) or self._shrink(now, load)
        if decision is not None:
            self._pressed_since, self._watched_since = None, now
            self._peaks.clear()
        return decision

    def _outside(self, size: int) -> Decision | None:
        if size < self.limits.min:
            return Decision(self.limits.min - size, f"{size} workers are fewer than min {self.limits.min}")
        if size > self.limits.max:
            return Decision(self.limits.max - size, f"{size} workers are more than max {self.limits.max}")
        return None

    def _grow(self, now: float, load: Load, size: int) -> Decision | None:
        if not load.queued or size >= self.limits.max:
            self._pressed_since = None
            return None
        if size == 0:
            return Decision(1, f"{load.queued} units are queued and there is no worker")
        if not load.waiting or load.starting:
            self._pressed_since = None
            return None
        if self._pressed_since is None:
            self._pressed_since = now
        waited = now - self._pressed_since
        if waited < self._pace.grow_after_s:
            return None
        more = min(-(-load.queued // load.capacity), self.limits.max - size)
        return Decision(more, f"waited {waited:.1f} s with {load.queued} units queued and {load.serving} workers full")

    def _shrink(self, now: float, load: Load) -> Decision | None:
        if self._watched_since is None:
            self._watched_since = now
        if load.queued or load.starting or now - self._watched_since < self._pace.shrink_after_s:
            return None
        peak = self._peaks[0][1] if self._peaks else load.busy
        surplus = load.serving - max(peak, self.limits.min)
        if surplus <= 0:
            return None
        reason = f"at most {peak} of {load.serving} workers had work in the last {self._pace.shrink_after_s:g} s"
        return Decision(-surplus, reason)

    def _remember(self, now: float, busy: int) -> None:
        while self._peaks and self._peaks[-1][1] <= busy:
            self._peaks.pop()
        self._peaks.append((now, busy))
        while self._peaks[0][0] < now - self._pace.shrink_after_s:
            self._peaks.popleft()
