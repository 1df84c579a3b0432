"""Engines, scorers, a learner and a weight push that take time and do nothing, for the real pool and the real loop.

What lives here: how long each takes, and the record of what every engine did. What does not: pool, queue, loop (the
product's own), and what is measured of them (pool_scale.py).

One thread with a heap plays all engines. Times are in seconds of a cluster; the clock runs ``speed`` times faster.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxmed_ray.actors.pool_worker import RayWorker
from boxmed_ray.actors.types import Group, Prompt, Rollout, ScoredGroup


@dataclass(frozen=True)
class World:
    """How long things take, in seconds of the cluster.

    Attributes:
        speed: seconds of the cluster in a second of this machine.
        median_tokens, sigma, cap: of a response's length, which is log-normal, cut off at ``cap``.
        token_s: of one token of all sequences that an engine holds.
        load_s: until an engine that holds nothing has new weights.
        publish_s: of gathering and publishing weights, in which the learner rests.
        learn_s: of one update of the learner.
        score_s: of one batch of rewards.
    """

    speed: float = 20.0
    median_tokens: float = 400.0
    sigma: float = 0.7
    cap: int = 4096
    token_s: float = 0.02
    load_s: float = 3.0
    publish_s: float = 1.0
    learn_s: float = 30.0
    score_s: float = 0.5


class Timer:
    """Calls functions at their times, all from one thread."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._others_s = 0.0
        self.late: list[tuple[float, float]] = []
        """When something was due, and how late it was, in seconds: how far the machine kept up."""
        self._thread.start()

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Call ``act`` at ``when`` seconds of the monotonic clock."""
        with self._changed:
            heapq.heappush(self._due, (when, next(self._order), act))
            if self._due[0][0] == when:
                self._changed.notify()

    def answer(self, future: Future[Any], result: Any) -> None:
        """Give a result to whoever waits; what that sets off is not the simulation's time."""
        began = time.thread_time()
        future.set_result(result)
        self._others_s += time.thread_time() - began

    @property
    def cpu_s(self) -> float:
        """Processor time of the simulation in its own thread."""
        assert self._thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident)) - self._others_s

    def _run(self) -> None:
        while True:
            when, act = self._next()
            self.late.append((when, time.monotonic() - when))
            act()

    def _next(self) -> tuple[float, Callable[[], None]]:
        with self._changed:
            while True:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    when, _, act = heapq.heappop(self._due)
                    return when, act
                self._changed.wait(wait)


@dataclass(frozen=True, slots=True)
class Held:
    """What an engine held from ``begin`` to ``end`` (monotonic seconds): ``lengths`` [n] seconds of its responses."""

    begin: float
    end: float
    lengths: NDArray[np.float64]


class Lengths:
    """Response lengths in tokens, drawn in bulk."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._rng = world, np.random.default_rng(seed)
        self._drawn, self._at = np.zeros(0, dtype=np.int64), 0

    def take(self, count: int) -> NDArray[np.int64]:
        """[count] of the next."""
        if self._at + count > len(self._drawn):
            drawn = self._rng.lognormal(np.log(self._world.median_tokens), self._world.sigma, 1 << 16)
            self._drawn, self._at = np.clip(drawn, 1, self._world.cap).astype(np.int64), 0
        self._at += count
        return self._drawn[self._at - count : self._at]


class Engine:
    """Holds up to ``capacity`` sequences; a call ends when its longest response does.

    New weights wait until all that runs has ended, and what comes meanwhile waits for them.
    """

    def __init__(self, world: World, timer: Timer, lengths: Lengths, capacity: int) -> None:
        self._world, self._timer, self._lengths, self._capacity = world, timer, lengths, capacity
        self._holds, self._version = 0, 0
        self._loaded, self._idle = 0.0, 0.0  # when the last weights, and the last group, are or will be done
        self._lock = threading.Lock()
        self.record: list[Held] = []
        self.cpu_s = 0.0

    def ready(self) -> Future[bool]:
        """At once."""
        return _done(True)

    def generate_group(self, prompt: Prompt, *, n: int, **_: Any) -> Future[Group]:
        """Beside whatever else it holds."""
        return self._generate([prompt], n, lambda groups: groups[0])

    def generate_groups(self, prompts: Sequence[Prompt], *, n: int, **_: Any) -> Future[list[Group]]:
        """As one batch."""
        return self._generate(prompts, n, list)

    def load(self, version: int) -> Future[None]:
        """Take the weights of ``version``."""
        future: Future[None] = Future()
        begin = max(time.monotonic(), self._idle)
        self._loaded = begin + self._world.load_s / self._world.speed

        def end() -> None:
            self._version = version
            self._timer.answer(future, None)

        self._timer.at(self._loaded, end)
        return future

    def _generate(self, prompts: Sequence[Prompt], n: int, give: Callable[[list[Group]], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        lengths = self._lengths.take(n * len(prompts))
        seconds = lengths * (self._world.token_s / self._world.speed)
        begin = max(time.monotonic(), self._loaded)
        end = begin + float(seconds.max())
        self._idle = max(self._idle, end)
        self._hold(len(lengths))

        def answer() -> None:
            self._hold(-len(lengths))
            self.record.append(Held(begin, end, seconds))
            groups = [
                Group(prompt, _rollouts(lengths[i * n : (i + 1) * n], self._world.cap, self._version))
                for i, prompt in enumerate(prompts)
            ]
            self._timer.answer(future, give(groups))

        self._timer.at(end, answer)
        return future

    def _hold(self, more: int) -> None:
        with self._lock:
            self._holds += more
        if self._holds > self._capacity:
            raise RuntimeError(f"the pool put {self._holds} sequences on an engine that holds {self._capacity}")


class Scorer:
    """Gives chance rewards after a while."""

    def __init__(self, world: World, timer: Timer, seed: int) -> None:
        self._world, self._timer, self._rng = world, timer, np.random.default_rng(seed)
        self.cpu_s = 0.0

    def ready(self) -> Future[bool]:
        """At once."""
        return _done(True)

    def score(self, groups: Sequence[Group]) -> Future[list[ScoredGroup]]:
        """A batch, by itself."""
        future: Future[list[ScoredGroup]] = Future()

        def answer() -> None:
            self._timer.answer(future, [self._scored(group) for group in groups])

        self._timer.at(time.monotonic() + self._world.score_s / self._world.speed, answer)
        return future

    def _scored(self, group: Group) -> ScoredGroup:
        rewards = self._rng.random(len(group.rollouts), dtype=np.float32)
        return ScoredGroup(group, rewards, {"iou": rewards}, rewards < 0)


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedWorker(RayWorker):
    """A worker whose handle is in this process; it never dies."""

    def call(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        """See ``Worker``."""
        began = time.thread_time()
        answer: Future[Any] = getattr(self.handle, method)(*args, **kwargs)
        self.handle.cpu_s += time.thread_time() - began  # one thread alone calls: the pool's
        return answer

    def death(self, error: BaseException) -> str | None:
        """See ``Worker``."""
        return None

    def kill(self) -> None:
        """See ``Worker``."""


@dataclass
class Learner:
    """Rests for the time of an update, and is the push that publishes it: ``learn``, ``publish``, ``deliver``."""

    world: World
    on_learn: Callable[[int], None]
    version: int = 0
    collective: bool = False

    def learn(self, scored: Sequence[ScoredGroup]) -> dict[str, Any]:
        """One update on scored groups."""
        self.on_learn(self.version)
        time.sleep(self.world.learn_s / self.world.speed)
        self.version += 1
        return {"updated": 1.0, "weight_version": self.version, "seconds": {}}

    def save_checkpoint(self, *_: Any) -> None:
        """Nothing to save."""

    def publish(self) -> Learner:
        """What is published has a version."""
        if self.version:
            time.sleep(self.world.publish_s / self.world.speed)
        return self

    def deliver(self, workers: Sequence[tuple[str, Engine]]) -> None:
        """Give the newest version to ``workers``."""
        version = self.version
        for loading in [engine.load(version) for _, engine in workers]:
            loading.result()


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def _rollouts(lengths: NDArray[np.int64], cap: int, version: int) -> tuple[Rollout, ...]:
    return tuple(
        Rollout(_TOKENS[:length], _LOGPROBS[:length], "length" if length == cap else "stop", version, "")
        for length in lengths
    )


_TOKENS = np.zeros(1 << 16, dtype=np.int64)
_LOGPROBS = np.zeros(1 << 16, dtype=np.float32)
