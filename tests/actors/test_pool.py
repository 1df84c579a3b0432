"""The pool on real Ray actors: order, replacement of dead and late workers, and giving up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from boxmed_ray.actors.pool import ActorPool, PoolError

pytestmark = pytest.mark.ray


class Worker:
    """Doubles numbers; dies or hangs on a marked one until the mark's file is gone."""

    def __init__(self, number: int) -> None:
        self.number = number

    def ready(self) -> bool:
        return True

    def double(self, batch: list[int]) -> list[int]:
        time.sleep(0.02 * batch[0])
        return [2 * value for value in batch]

    def die_once(self, batch: list[int], mark: str) -> tuple[int, list[int]]:
        if 3 in batch and Path(mark).exists():
            Path(mark).unlink()
            os._exit(1)
        return self.number, batch

    def hang_once(self, batch: list[int], mark: str) -> list[int]:
        if 3 in batch and Path(mark).exists():
            Path(mark).unlink()
            time.sleep(600)
        return batch

    def always_die(self, batch: list[int]) -> None:
        os._exit(1)

    def refuse(self, batch: list[int]) -> None:
        raise ValueError(f"batch {batch} is not to my taste")


@pytest.fixture
def make_pool(ray_cluster: Any) -> Any:
    pools: list[ActorPool] = []

    def make(size: int = 2, timeout_s: float = 60, on_join: Callable[[str, Any], None] | None = None) -> ActorPool:
        actor = ray.remote(Worker).options(num_cpus=0)
        pool = ActorPool("worker", actor.remote, size, timeout_s=timeout_s, on_join=on_join)
        pools.append(pool)
        pool.launch()
        pool.wait_ready()
        return pool

    yield make
    for pool in pools:
        pool.shutdown()


@pytest.fixture
def mark(tmp_path: Path) -> str:
    path = tmp_path / "mark"
    path.touch()
    return str(path)


def test_results_keep_the_order_of_batches_though_the_first_is_the_slowest(make_pool: Any) -> None:
    assert make_pool().run("double", [[9], [1], [2], [3], [4]]) == [[18], [2], [4], [6], [8]]


def test_a_worker_that_dies_is_replaced_and_its_batch_redone(make_pool: Any, mark: str) -> None:
    joined: list[str] = []
    pool = make_pool(on_join=lambda name, _: joined.append(name))
    before = set(pool.workers)
    results = pool.run("die_once", [[1], [2], [3], [4]], mark)
    assert [batch for _, batch in results] == [[1], [2], [3], [4]]
    assert joined == ["worker-3"]
    assert len(pool.workers) == 2
    assert len(before & set(pool.workers)) == 1


def test_a_worker_that_does_not_answer_in_time_is_replaced(make_pool: Any, mark: str) -> None:
    pool = make_pool(timeout_s=2)
    assert pool.run("hang_once", [[1], [3]], mark) == [[1], [3]]


def test_a_batch_that_kills_every_worker_is_given_up_with_its_number(make_pool: Any) -> None:
    with pytest.raises(PoolError, match="batch 0 failed on 3 workers"):
        make_pool(size=1).run("always_die", [[1]])


def test_an_error_of_the_method_itself_reaches_the_caller(make_pool: Any) -> None:
    with pytest.raises(ValueError, match="not to my taste"):
        make_pool(size=1).run("refuse", [[1]])
