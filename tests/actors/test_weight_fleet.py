"""Phases over several workers: all at once, timed, and a bad worker costs only itself."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from boxmed_ray.actors.weight_fleet import Failure, LocalClient, Phase, PushError, PushReport, RayClient, WorkerFleet


class Worker:
    """Does ``act`` in every phase and remembers the phases."""

    def __init__(self, act: Callable[[str], None] = lambda phase: None) -> None:
        self.phases: list[str] = []
        self._act = act

    def weight_phase(self, phase: str, payload: Any) -> None:
        self.phases.append(phase)
        self._act(phase)


def test_a_phase_runs_on_all_workers_at_once() -> None:
    together = threading.Barrier(3, timeout=10)
    workers = [Worker(lambda phase: together.wait() and None) for _ in range(3)]
    fleet = WorkerFleet([LocalClient(worker, str(i)) for i, worker in enumerate(workers)], timeout_s=10)
    fleet.begin(1)
    fleet.run((Phase.PAUSE, {}))  # a barrier of three opens only if all three are inside
    assert fleet.end().workers == ["0", "1", "2"]


def test_a_late_worker_is_named_with_its_phase_and_the_timeout_holds_for_all_together() -> None:
    release = threading.Event()
    late = [Worker(lambda phase: release.wait(20) and None if phase == "update" else None) for _ in range(2)]
    good = Worker()
    clients = [LocalClient(late[0], "w0"), LocalClient(good, "w1"), LocalClient(late[1], "w2")]
    fleet = WorkerFleet(clients, timeout_s=0.5)
    fleet.begin(4)
    started = time.monotonic()
    for phase in (Phase.START, Phase.UPDATE, Phase.FINISH):
        fleet.run((phase, {}))
    took = time.monotonic() - started
    release.set()
    with pytest.raises(PushError, match=r"version 4 failed: w0 in phase update: no answer within 0.5 s; w2") as caught:
        fleet.end()
    assert took < 5
    assert caught.value.report.workers == ["w1"]
    assert good.phases == ["start", "update", "finish"]
    assert late[0].phases == ["start", "update"]


def test_a_quick_worker_does_not_wait_between_phases_for_a_slow_one() -> None:
    done = threading.Event()
    slow = Worker(lambda phase: done.wait(10) and None if phase == "pause" else None)
    quick = Worker(lambda phase: done.set() if phase == "update" else None)  # ends the slow one's first phase
    fleet = WorkerFleet([LocalClient(slow, "slow"), LocalClient(quick, "quick")], timeout_s=5)
    fleet.begin(1)
    fleet.run((Phase.PAUSE, {}), (Phase.START, {}), (Phase.UPDATE, {}))
    assert fleet.end().workers == ["slow", "quick"]
    assert slow.phases == quick.phases == ["pause", "start", "update"]


def test_a_failure_is_reported_with_the_phase_it_began_in() -> None:
    def fail(phase: str) -> None:
        if phase != "start":
            raise ValueError(f"{phase} went wrong")

    fleet = WorkerFleet([LocalClient(Worker(fail), "bad")], timeout_s=5)
    fleet.begin(2)
    fleet.run((Phase.START, {}), (Phase.UPDATE, {}), (Phase.FINISH, {}))
    with pytest.raises(PushError, match=r"bad in phase update: ValueError: update went wrong$"):
        fleet.end()


def test_a_worker_that_raises_falls_out_with_its_own_words() -> None:
    def fail(phase: str) -> None:
        raise ValueError("the moon is in the way\nsecond line")

    fleet = WorkerFleet([LocalClient(Worker(fail), "bad")], timeout_s=5)
    fleet.begin(2)
    fleet.run((Phase.START, {}))
    with pytest.raises(PushError, match=r"bad in phase start: ValueError: the moon is in the way$"):
        fleet.end()


def test_a_worker_that_cannot_even_be_called_falls_out() -> None:
    class Dead:
        name = "dead"

        def submit(self, phase: Phase, payload: Any) -> Any:
            raise ConnectionError("gone")

    good = Worker()
    fleet = WorkerFleet([Dead(), LocalClient(good, "good")], timeout_s=5)  # type: ignore[list-item]
    fleet.begin(3)
    fleet.run((Phase.PAUSE, {}))
    with pytest.raises(PushError, match="dead in phase pause: ConnectionError: gone"):
        fleet.end()
    assert good.phases == ["pause"]


def test_the_error_of_a_push_survives_pickling_with_its_report() -> None:
    report = PushReport(version=5, failures=[Failure("w", Phase.UPDATE, "lost")])
    again = pickle.loads(pickle.dumps(PushError(report)))
    assert again.report == report
    assert "w in phase update: lost" in str(again)


def test_a_timeout_must_be_positive() -> None:
    with pytest.raises(ValueError, match="timeout_s = 0"):
        WorkerFleet([], timeout_s=0)


@pytest.mark.ray
def test_ray_actors_that_hang_or_die_cost_only_themselves(ray_cluster: None) -> None:
    import ray

    @ray.remote(num_cpus=0, max_restarts=0)
    class Actor:
        def weight_phase(self, phase: str, payload: Any) -> None:
            assert payload == ({"version": 9} if phase == "finish" else {})

        def hang(self) -> None:
            time.sleep(60)

    hanging, dead, good = (Actor.remote() for _ in range(3))
    ray.get(good.weight_phase.remote("pause", {}))
    hanging.hang.remote()  # busy: an actor answers one call at a time
    ray.kill(dead)
    clients = [RayClient(hanging, "hanging"), RayClient(dead, "dead"), RayClient(good, "good")]
    fleet = WorkerFleet(clients, timeout_s=15)
    fleet.begin(9)
    fleet.run((Phase.START, {}))
    fleet.finish_weight_update("9")
    with pytest.raises(PushError) as caught:
        fleet.end()
    ray.kill(hanging)
    report = caught.value.report
    assert report.workers == ["good"]
    assert [(failure.worker, failure.phase) for failure in report.failures] == [("hanging", "start"), ("dead", "start")]
    assert "no answer within 15 s" in report.failures[0].reason
    assert "ActorDiedError" in report.failures[1].reason
