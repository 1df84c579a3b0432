"""Phases of a push through real Ray, which gives them to an actor with threads in any order."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
import ray

from boxmed_ray.actors.engine_loop import EngineLoop
from boxmed_ray.actors.weight_fleet import Phase

pytestmark = pytest.mark.ray
PUSH = [phase for phase in Phase if phase is not Phase.CONNECT]


class Worker:
    """Notes the phases in the order in which they are carried out; has no engine."""

    def __init__(self) -> None:
        self._loop: EngineLoop = EngineLoop(self)  # type: ignore[arg-type]  # nothing is generated
        self._done: list[Phase] = []

    @ray.method(concurrency_group="weights")
    def weight_phase(self, phase: Phase) -> None:
        future: Future[Any] = self._loop.phase(phase, lambda: self._done.append(phase))
        future.result()

    def done(self) -> list[Phase]:
        return self._done


def test_a_hundred_pushes_are_carried_out_phase_by_phase_and_none_waits_for_itself(ray_cluster: None) -> None:
    actor = ray.remote(concurrency_groups={"weights": len(Phase)})(Worker).options(num_cpus=0, max_concurrency=4)
    worker = actor.remote()
    for number in range(100):
        # In the worst order on every second push: Ray's own disorder is rare.
        phases = PUSH if number % 2 else PUSH[::-1]
        ray.get([worker.weight_phase.remote(phase) for phase in phases], timeout=60)
    assert ray.get(worker.done.remote(), timeout=60) == PUSH * 100
    ray.kill(worker)
