"""A pool of equal actors that draw work from one queue; a dead one is replaced and its work redone.

What lives here: starting, dispatching, replacing, ending. What does not: what the actors do
(rollout.py, reward.py), and which weights they hold (the ``on_join`` hook brings a new one up to date).

A batch goes to whichever worker is free, so a straggler holds up one batch and not the step. Results
keep the order of the batches, whoever did them: with the same batches and seeds a run is the same.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

log = logging.getLogger(__name__)


class PoolError(RuntimeError):
    """A pool that cannot go on: a worker does not start, or one batch fails on every worker."""


class ActorPool:
    """Actors made by ``spawn``, all alike.

    Args:
        name: for messages, "rollout" for instance.
        spawn: number → handle of a new actor, which has a method ``ready``.
        size: number of workers.
        timeout_s: of one call; a worker that exceeds it is replaced.
        start_timeout_s: until ``ready`` answers.
        max_tries: workers that may die on one batch before it is given up.
        on_join: called with name and handle of every worker that replaces a dead one, before it gets work.
    """

    def __init__(
        self,
        name: str,
        spawn: Callable[[int], Any],
        size: int,
        *,
        timeout_s: float,
        start_timeout_s: float = 300.0,
        max_tries: int = 3,
        on_join: Callable[[str, Any], None] | None = None,
    ) -> None:
        self._name, self._spawn, self._size = name, spawn, size
        self._timeout_s, self._start_timeout_s, self._max_tries = timeout_s, start_timeout_s, max_tries
        self.on_join = on_join
        self._spawned = 0
        self.workers: dict[str, Any] = {}

    def launch(self) -> None:
        """Create the actors without waiting; they start side by side."""
        self.workers = dict(self._new() for _ in range(self._size))

    def wait_ready(self) -> None:
        """Wait until every worker answers.

        Raises:
            PoolError: one does not within ``start_timeout_s``, or dies while starting (with its own error).
        """
        for name, worker in self.workers.items():
            self._wait_ready(name, worker)

    def run(self, method: str, batches: Sequence[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Call ``method(batch, *args, **kwargs)`` for every batch; results in the order of the batches.

        Raises:
            PoolError: a batch outlived ``max_tries`` workers.
            ray.exceptions.RayTaskError: the method itself raised; its own error is the cause.
        """
        results: list[Any] = [None] * len(batches)
        tries = [0] * len(batches)
        queue = deque(range(len(batches)))
        idle = deque(self.workers)
        running: dict[Any, tuple[int, str, float]] = {}
        while queue or running:
            while queue and idle:
                index, worker = queue.popleft(), idle.popleft()
                reference = getattr(self.workers[worker], method).remote(batches[index], *args, **kwargs)
                running[reference] = (index, worker, time.monotonic() + self._timeout_s)
            for reference, value, error in self._finished(running):
                index, worker, _ = running.pop(reference)
                if error is None:
                    results[index] = value
                    idle.append(worker)
                    continue
                tries[index] += 1
                log.warning("%s lost on batch %d (try %d): %s", worker, index, tries[index], error)
                if tries[index] >= self._max_tries:
                    raise PoolError(f"{self._name}: batch {index} failed on {tries[index]} workers; last: {error}")
                queue.appendleft(index)
                idle.append(self._replace(worker))
        return results

    def shutdown(self) -> None:
        """End every worker; the pool can be launched again."""
        for worker in self.workers.values():
            ray.kill(worker)
        self.workers = {}

    def _finished(self, running: dict[Any, tuple[int, str, float]]) -> list[tuple[Any, Any, str | None]]:
        """References that are done, each with its value, or with why its worker is to be replaced."""
        deadline = min(limit for _, _, limit in running.values())
        done, _ = ray.wait(list(running), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            now = time.monotonic()
            return [
                (reference, None, f"no answer within {self._timeout_s:g} s")
                for reference, (_, _, limit) in running.items()
                if limit <= now
            ]
        # ray.wait counts an errored reference as ready; only looking tells them apart.
        return [(reference, *_outcome(reference)) for reference in done]

    def _replace(self, name: str) -> str:
        ray.kill(self.workers.pop(name))
        fresh, worker = self._new()
        self.workers[fresh] = worker
        self._wait_ready(fresh, worker)
        if self.on_join is not None:
            self.on_join(fresh, worker)
        return fresh

    def _new(self) -> tuple[str, Any]:
        self._spawned += 1
        return f"{self._name}-{self._spawned}", self._spawn(self._spawned)

    def _wait_ready(self, name: str, worker: Any) -> None:
        try:
            ray.get(worker.ready.remote(), timeout=self._start_timeout_s)
        except (RayActorError, GetTimeoutError) as error:
            raise PoolError(f"{name} did not start: {error}") from error


def _outcome(reference: Any) -> tuple[Any, str | None]:
    """The value behind a finished reference, or why its worker is gone."""
    try:
        return ray.get(reference), None
    except RayActorError as error:
        return None, str(error).splitlines()[0]
