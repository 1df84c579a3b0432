"""The one thread that owns a worker's engine: groups run together in it, everything else runs alone.

What lives here: who may run when. What does not: the engine (vllm_engine.py), what travels over Ray
(rollout.py).

    groups   join the running batch at the next step of the engine and leave it when they end
    calls    wait until nothing runs, and hold back what came after them

A weight push is made of calls. So a group that has begun when a push comes ends on the weights it began
with, groups behind the push get the new ones, and nothing is ever sampled from two versions.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from boxmed_ray.actors.rollout_io import EngineCrashedError
from boxmed_ray.actors.weight_fleet import Phase

_BEFORE = {
    Phase.START: {Phase.PAUSE},
    Phase.UPDATE: {Phase.START, Phase.UPDATE},
    Phase.FINISH: {Phase.UPDATE},
    Phase.RESUME: {Phase.FINISH},
}


class Steps(Protocol):
    """What the loop needs of an engine."""

    def step(self) -> list[tuple[str, Any]]:
        """Go on with all requests by one token; those that ended, with their results.

        Raises:
            EngineCrashedError: all are lost.
        """


@dataclass(slots=True)
class _Job:
    """``add`` begins a group and gives its request id; without it ``call`` is run alone."""

    call: Callable[[], Any]
    alone: bool
    future: Future[Any] = field(default_factory=Future)


class EngineLoop:
    """Runs jobs on an engine.

    Args:
        engine: not to be touched by anybody else from now on.
    """

    def __init__(self, engine: Steps) -> None:
        self._engine = engine
        self._jobs: deque[_Job] = deque()
        self._running: dict[str, Future[Any]] = {}
        self._early: list[tuple[Phase, _Job]] = []
        self._last: Phase | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    def group(self, begin: Callable[[], str]) -> Future[Any]:
        """Run a request beside others: ``begin`` hands it to the engine and gives its id."""
        return self._put(_Job(begin, alone=False))

    def call(self, call: Callable[[], Any]) -> Future[Any]:
        """Run ``call`` when all that came before it has ended."""
        return self._put(_Job(call, alone=True))

    def phase(self, phase: Phase, call: Callable[[], Any]) -> Future[Any]:
        """A call that is a phase of a push.

        Phases are handed over all at once, and an actor with several threads gets them in any order: each waits for
        the one that goes before it. So there must be a thread for each of them.
        """
        job = _Job(call, alone=True)
        with self._changed:
            self._early.append((phase, job))
            while (ready := next((each for each in self._early if self._in_turn(each[0])), None)) is not None:
                self._early.remove(ready)
                self._last = self._last if ready[0] is Phase.CONNECT else ready[0]
                self._jobs.append(ready[1])
            self._changed.notify()
        return job.future

    def _in_turn(self, phase: Phase) -> bool:
        return phase not in _BEFORE or self._last in _BEFORE[phase]

    def _put(self, job: _Job) -> Future[Any]:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def _run(self) -> None:
        while True:
            for job in self._admit():
                self._begin(job)
            if self._running:
                self._step()

    def _admit(self) -> list[_Job]:
        """Groups up to the next call; or, when nothing runs, that call."""
        with self._changed:
            while not self._jobs and not self._running:
                self._changed.wait()
            if self._jobs and self._jobs[0].alone:
                return [] if self._running else [self._jobs.popleft()]
            groups = []
            while self._jobs and not self._jobs[0].alone:
                groups.append(self._jobs.popleft())
            return groups

    def _begin(self, job: _Job) -> None:
        try:
            result = job.call()
        except BaseException as error:  # whoever waits for the job is told, whatever it was
            job.future.set_exception(error)
            return
        if job.alone:
            job.future.set_result(result)
        else:
            self._running[result] = job.future

    def _step(self) -> None:
        try:
            ended = self._engine.step()
        except EngineCrashedError as crash:
            for future in self._running.values():
                future.set_exception(crash)
            self._running.clear()
            return
        for name, result in ended:
            self._running.pop(name).set_result(result)
