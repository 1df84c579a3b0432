"""The pool with simulated workers: who gets what, what becomes of a lost worker's items, growing and shrinking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_items import LostError, PoolError
from boxmed_ray.actors.scaling import Limits, Pace
from tests.actors.simulated import DiedError, SimulatedWorker


class Made:
    """A pool and the workers it has made, in their order."""

    def __init__(self, work: Callable[[Any], Any], limits: Limits, start_s: float = 0.0, **options: Any) -> None:
        self.workers: list[SimulatedWorker] = []
        self.events: list[str] = []

        def spawn(_: int) -> SimulatedWorker:
            self.workers.append(SimulatedWorker(work, start_s))
            return self.workers[-1]

        options = {"timeout_s": 20.0} | options
        self.pool = Pool("worker", spawn, limits, on_event=self.events.append, **options)
        self.pool.launch()
        self.pool.wait_ready()

    @property
    def alive(self) -> int:
        return sum(worker.alive for worker in self.workers)


@pytest.fixture
def make() -> Iterator[Callable[..., Made]]:
    made: list[Made] = []

    def build(work: Callable[[Any], Any], least: int = 2, most: int | None = None, **options: Any) -> Made:
        made.append(Made(work, Limits(least, most or max(least, 1)), **options))
        return made[-1]

    yield build
    for each in made:
        each.pool.shutdown()
        assert each.alive == 0


def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def test_results_are_in_the_order_of_the_items_however_long_each_takes(make: Any) -> None:
    made = make(lambda value: (time.sleep(0.02 * (value % 3)), 2 * value)[1], least=3)
    assert made.pool.run("double", range(20)) == [2 * value for value in range(20)]


def test_a_straggler_holds_up_its_own_item_and_nothing_else(make: Any) -> None:
    made = make(lambda value: time.sleep(1.0 if value == 0 else 0.01), least=2)
    made.pool.run("wait", range(30))
    assert sorted(len(worker.seen) for worker in made.workers) == [1, 29]


def test_a_worker_holds_as_many_units_as_its_capacity_and_no_more(make: Any) -> None:
    made = make(lambda value: time.sleep(0.1), least=2, capacity=8)
    made.pool.run("wait", range(40), cost=2)
    assert [worker.at_once for worker in made.workers] == [4, 4]
    # An item dearer than a whole worker is alone on one.
    made.pool.run("wait", range(4), cost=20)
    made.pool.run("wait", range(1), cost=1)
    assert made.pool.run("wait", range(4), cost=9) == [None] * 4


def test_items_of_a_dead_worker_are_done_by_others_and_a_new_one_takes_its_place(make: Any) -> None:
    died = threading.Event()

    def work(value: int) -> int:
        if value == 5 and not died.is_set():
            died.set()
            raise DiedError
        time.sleep(0.02)
        return value

    made = make(work, least=2, capacity=3)
    assert made.pool.run("echo", range(12)) == list(range(12))
    until(lambda: made.alive == 2)
    assert len(made.workers) == 3


def test_a_worker_that_hangs_is_replaced_and_its_item_redone(make: Any) -> None:
    hung = threading.Event()

    def work(value: int) -> int:
        if value == 3 and not hung.is_set():
            hung.set()
            time.sleep(30)
        return value

    made = make(work, least=2, timeout_s=0.5)
    assert made.pool.run("echo", range(6)) == list(range(6))
    assert any("no answer within 0.5 s" in event for event in made.events)


def test_an_item_that_kills_its_worker_each_time_is_given_up_and_takes_no_other_with_it(make: Any) -> None:
    killed: list[int] = []

    def work(value: int) -> int:
        time.sleep(0.05)
        if value == 7:
            killed.append(value)
            raise DiedError
        return value

    made = make(work, least=2, capacity=4, max_tries=3)
    futures = [made.pool.submit("echo", value) for value in range(16)]
    with made.pool.waiting(), pytest.raises(LostError, match="3 workers were lost"):
        futures[7].result(20)
    assert [future.result(20) for value, future in enumerate(futures) if value != 7] == [*range(7), *range(8, 16)]
    assert len(killed) == 3
    assert any("given up" in event for event in made.events)


def test_workers_that_died_in_idleness_are_not_held_against_the_items_that_find_them(make: Any) -> None:
    made = make(lambda value: value, least=3, max_tries=1)
    time.sleep(1.1)
    for worker in made.workers:
        worker.alive = False
    assert made.pool.run("echo", range(6)) == list(range(6))


def test_an_error_of_the_method_is_the_callers_and_the_worker_stays(make: Any) -> None:
    def refuse(value: int) -> None:
        raise ValueError(f"{value} is not to my taste")

    made = make(refuse, least=1)
    with pytest.raises(ValueError, match="3 is not to my taste"):
        made.pool.run("refuse", [3])
    assert made.alive == len(made.workers) == 1


def test_a_worker_unfit_for_work_is_replaced_without_blame(make: Any) -> None:
    class UnfitError(RuntimeError):
        pass

    seen = []

    def work(value: int) -> int:
        seen.append(value)
        if len(seen) < 5:
            raise UnfitError("out of service")
        return value

    made = make(work, least=1, max_tries=1, unfit=(UnfitError,))
    assert made.pool.run("echo", [1]) == [1]
    assert len(made.workers) == 5


def test_every_worker_is_prepared_before_its_first_item_and_after_a_refresh_before_items_that_follow_it(
    make: Any,
) -> None:
    log: list[tuple[str, Any]] = []
    version = ["v0"]
    made = make(
        lambda value: log.append(("item", value)), least=2, prepare=lambda name, _: log.append((name, version[0]))
    )
    made.pool.run("note", ["a", "b"])
    version[0] = "v1"
    made.pool.refresh().result(5)
    made.pool.run("note", ["c", "d"])
    assert sorted(log[:2]) == [("worker-1", "v0"), ("worker-2", "v0")]
    assert sorted(log[4:6]) == [("worker-1", "v1"), ("worker-2", "v1")]
    assert {value for kind, value in log[6:]} == {"c", "d"}


def test_a_busy_worker_goes_on_with_older_items_and_is_refreshed_before_newer_ones(make: Any) -> None:
    log: list[Any] = []
    gate = threading.Event()

    def work(value: str) -> None:
        log.append(value)
        if value == "old-1":
            gate.wait(5)

    made = make(work, least=1, prepare=lambda name, _: log.append("prepared"))
    first = [made.pool.submit("note", value) for value in ("old-1", "old-2")]
    until(lambda: "old-1" in log)
    refreshed = made.pool.refresh()
    newer = made.pool.submit("note", "new")
    gate.set()
    for future in [*first, newer, refreshed]:
        future.result(5)
    assert log == ["prepared", "old-1", "old-2", "prepared", "new"]


def test_a_worker_with_room_ends_its_older_items_before_it_is_prepared_for_newer_ones(make: Any) -> None:
    gate = threading.Event()
    at_work: list[int] = []

    def prepare(_name: str, worker: SimulatedWorker) -> None:
        at_work.append(len(worker._open))

    made = make(lambda value: gate.wait(5) if value == "old" else value, least=2, capacity=4, prepare=prepare)
    old = [made.pool.submit("wait", "old") for _ in range(4)]
    until(lambda: all(len(worker.seen) == 2 for worker in made.workers))
    refreshed = made.pool.refresh()
    newer = made.pool.submit("wait", "new")
    time.sleep(0.2)
    assert len(at_work) == 2
    assert not newer.done()
    gate.set()
    for future in [*old, newer, refreshed]:
        future.result(5)
    assert at_work == [0, 0, 0, 0]


def test_a_refresh_is_over_when_all_have_seen_it_though_another_has_begun(make: Any) -> None:
    gates = [threading.Event() for _ in range(3)]
    gates[0].set()
    begun: list[threading.Event] = []

    def prepare(_name: str, _worker: Any) -> None:
        begun.append(gates[len(begun)])
        begun[-1].wait(5)

    made = make(lambda value: value, least=1, prepare=prepare)
    first = made.pool.refresh()
    until(lambda: len(begun) == 2)
    second = made.pool.refresh()
    gates[1].set()
    first.result(3)
    assert not second.done()
    gates[2].set()
    second.result(5)


def test_a_worker_that_cannot_be_prepared_is_replaced(make: Any) -> None:
    bad = {"worker-1"}

    def prepare(name: str, _: Any) -> None:
        if name in bad:
            raise RuntimeError("half of a version")

    made = make(lambda value: value, least=1, prepare=prepare)
    assert made.pool.run("echo", [1]) == [1]
    assert len(made.workers) == 2
    assert any("half of a version" in event for event in made.events)


def test_workers_that_do_not_start_break_the_pool_with_their_own_reason() -> None:
    class Broken(SimulatedWorker):
        def call(self, method: str, *args: Any, **_: Any) -> Any:
            self.alive = False
            return super().call(method, *args)

    pool = Pool("worker", lambda _: Broken(), Limits(1, 1), timeout_s=5)
    pool.launch()
    with pytest.raises(PoolError, match=r"did not start.*dead already"):
        pool.wait_ready()
    with pytest.raises(PoolError, match="did not start"):
        pool.submit("echo", 1).result(5)
    pool.shutdown()
    with pytest.raises(PoolError, match="did not start"):
        pool.submit("echo", 1)


def test_shutting_down_tells_those_who_wait(make: Any) -> None:
    made = make(lambda value: time.sleep(5), least=1)
    futures = [made.pool.submit("wait", value) for value in range(3)]
    made.pool.shutdown()
    for future in futures:
        with pytest.raises(PoolError, match="shut down"):
            future.result(5)


QUICK = Pace(grow_after_s=0.3, shrink_after_s=1.0)


def test_it_grows_under_load_that_is_waited_for_and_shrinks_when_that_is_over(make: Any) -> None:
    made = make(lambda value: time.sleep(0.2), least=1, most=3, pace=QUICK)
    made.pool.run("wait", range(20))
    assert len(made.workers) == 3
    until(lambda: made.alive == 1)
    changes = [event for event in made.events if " -> " in event]
    assert "pool 1 -> 3: waited 0." in changes[0]
    assert "units queued and 1 workers full" in changes[0]
    assert all("had work in the last 1 s" in change for change in changes[1:])
    assert changes[-1].startswith(("worker pool 3 -> 1", "worker pool 2 -> 1"))
    assert made.workers[0].alive  # the youngest go first


def test_it_does_not_grow_while_nobody_waits(make: Any) -> None:
    made = make(lambda value: time.sleep(0.2), least=1, most=3, pace=QUICK)
    futures = [made.pool.submit("wait", value) for value in range(6)]
    until(lambda: all(future.done() for future in futures))
    assert len(made.workers) == 1


def test_with_min_0_the_first_work_starts_a_worker_and_idleness_ends_it(make: Any) -> None:
    made = make(lambda value: value, least=0, most=2, pace=QUICK)
    assert made.workers == []
    assert made.pool.run("echo", [1]) == [1]
    until(lambda: made.alive == 0)
    assert made.pool.run("echo", [2]) == [2]


def test_new_limits_hold_at_once_and_let_work_end(make: Any) -> None:
    made = make(lambda value: (time.sleep(0.5), value)[1], least=3)
    futures = [made.pool.submit("wait", value) for value in range(3)]
    until(lambda: all(worker.seen for worker in made.workers))
    made.pool.resize(Limits(0, 1))
    assert [future.result(5) for future in futures] == [0, 1, 2]
    until(lambda: made.alive <= 1)
    made.pool.resize(Limits(2, 2))
    until(lambda: len(made.pool.workers) == 2)


def test_a_worker_that_joins_in_the_middle_gets_work_at_once(make: Any) -> None:
    made = make(lambda value: time.sleep(0.1), least=1, most=2, pace=QUICK, start_s=0.2)
    made.pool.run("wait", range(30))
    assert len(made.workers[1].seen) > 5
