"""The pool on real Ray actors: killed, hanging, and crashing ones, and threads inside one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_items import LostError, PoolError
from boxmed_ray.actors.pool_worker import RayWorker
from boxmed_ray.actors.scaling import Limits

pytestmark = pytest.mark.ray


class Actor:
    """Doubles numbers, beside each other; dies or hangs on marked ones."""

    def __init__(self, number: int, mark: str) -> None:
        if mark == "refuse":
            raise RuntimeError("no such model")
        self._number, self._mark = number, Path(mark)
        self._at_once = self._most = 0
        self._lock = threading.Lock()

    def ready(self) -> bool:
        return True

    def pid(self, _: int) -> int:
        return os.getpid()

    def double(self, value: int) -> int:
        with self._lock:
            self._at_once += 1
            self._most = max(self._most, self._at_once)
        time.sleep(0.05)
        with self._lock:
            self._at_once -= 1
        if value == 3 and self._mark.exists():
            self._mark.unlink()
            os._exit(1)
        return 2 * value

    def most(self, _: int) -> int:
        return self._most

    def always_die(self, value: int) -> None:
        os._exit(1)

    def refuse(self, value: int) -> None:
        raise ValueError(f"{value} is not to my taste")


@pytest.fixture
def make(ray_cluster: Any, tmp_path: Path) -> Iterator[Callable[..., Pool]]:
    pools: list[Pool] = []

    def build(size: int = 2, mark: str = "", **options: Any) -> Pool:
        actor = ray.remote(Actor).options(num_cpus=0, max_concurrency=8)

        def spawn(number: int) -> RayWorker:
            return RayWorker(actor.remote(number, mark or str(tmp_path / "mark")))

        pools.append(Pool("worker", spawn, Limits(size, size), timeout_s=60, **options))
        pools[-1].launch()
        return pools[-1]

    yield build
    for pool in pools:
        pool.shutdown()


def test_a_killed_actor_is_replaced_and_its_items_are_redone(make: Any, tmp_path: Path) -> None:
    pool = make(capacity=4)
    pool.wait_ready()
    (tmp_path / "mark").touch()
    assert pool.run("double", range(12)) == [2 * value for value in range(12)]
    assert not (tmp_path / "mark").exists()
    (pid,) = set(pool.run("pid", [0]))
    os.kill(pid, signal.SIGKILL)
    assert pool.run("double", range(6)) == [2 * value for value in range(6)]
    pool.wait_ready()
    assert len(pool.workers) == 2


def test_items_run_side_by_side_in_one_actor_up_to_its_capacity(make: Any) -> None:
    pool = make(size=1, capacity=4)
    pool.run("double", range(12))
    assert pool.run("most", [0]) == [4]


def test_an_item_that_kills_every_actor_is_given_up(make: Any) -> None:
    pool = make(max_tries=2)
    with pytest.raises(LostError, match="2 workers were lost"):
        pool.run("always_die", [0])
    assert pool.run("double", [1]) == [2]


def test_an_error_of_the_method_is_raised_as_it_is(make: Any) -> None:
    with pytest.raises(ValueError, match="7 is not to my taste"):
        make(size=1).run("refuse", [7])


def test_an_actor_that_cannot_be_made_says_why(make: Any) -> None:
    with pytest.raises(PoolError, match=r"did not start.*RuntimeError: no such model$"):
        make(size=1, mark="refuse").wait_ready()


def _answers(handle: Any) -> bool:
    try:
        return bool(ray.get(handle.ready.remote(), timeout=20))
    except ray.exceptions.RayActorError:
        return False


def test_shutdown_ends_the_actors(make: Any) -> None:
    pool = make()
    pool.wait_ready()
    handles = [worker.handle for worker in pool.workers.values()]
    pool.shutdown()
    deadline = time.monotonic() + 20
    for handle in handles:
        while _answers(handle):  # a kill is on its way when shutdown returns, and a call may overtake it
            assert time.monotonic() < deadline, "still alive"
