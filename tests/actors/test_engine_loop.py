"""Who may use an engine when: groups together, calls alone, phases of a push in their order."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from boxmed_ray.actors.engine_loop import EngineLoop
from boxmed_ray.actors.rollout_io import EngineCrashedError
from boxmed_ray.actors.weight_fleet import Phase


class Engine:
    """Requests that end when they have been stepped as often as they ask; a gate lets the test go step by step."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.log: list[Any] = []
        self.gate = threading.Semaphore(0)
        self.crash = False

    def begin(self, name: str, steps: int) -> str:
        self.left[name] = steps
        self.log.append(f"begin {name}")
        return name

    def step(self) -> list[tuple[str, Any]]:
        self.gate.acquire()
        if self.crash:
            self.left.clear()
            raise EngineCrashedError("vLLM failed")
        self.log.append(sorted(self.left))
        for name in self.left:
            self.left[name] -= 1
        ended = [name for name, left in self.left.items() if not left]
        for name in ended:
            del self.left[name]
        return [(name, name.upper()) for name in ended]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def loop(engine: Engine) -> EngineLoop:
    return EngineLoop(engine)


def group(loop: EngineLoop, engine: Engine, name: str, steps: int) -> Future[Any]:
    return loop.group(lambda: engine.begin(name, steps))


def note(loop: EngineLoop, engine: Engine, what: str) -> Future[Any]:
    return loop.call(lambda: engine.log.append(what))


def release(engine: Engine, steps: int = 100) -> None:
    engine.gate.release(steps)


def test_groups_join_the_running_batch_and_leave_it_when_they_end(loop: EngineLoop, engine: Engine) -> None:
    first = group(loop, engine, "a", 3)
    engine.gate.release()
    while ["a"] not in engine.log:
        pass
    second = group(loop, engine, "b", 1)
    release(engine)
    assert (first.result(5), second.result(5)) == ("A", "B")
    steps = [entry for entry in engine.log if isinstance(entry, list)]
    assert steps in ([["a"], ["a", "b"], ["a"]], [["a"], ["a"], ["a", "b"]])


def test_a_call_waits_for_what_came_before_it_and_holds_back_what_came_after(loop: EngineLoop, engine: Engine) -> None:
    futures = [group(loop, engine, "a", 2), note(loop, engine, "call"), group(loop, engine, "b", 1)]
    release(engine)
    for future in futures:
        future.result(5)
    assert engine.log == ["begin a", ["a"], ["a"], "call", "begin b", ["b"]]


def test_phases_run_in_their_order_whatever_order_they_come_in(loop: EngineLoop, engine: Engine) -> None:
    held = group(loop, engine, "a", 2)
    coming = [Phase.FINISH, Phase.PAUSE, Phase.RESUME, Phase.UPDATE, Phase.START]
    futures = [loop.phase(phase, lambda phase=phase: engine.log.append(phase)) for phase in coming]  # type: ignore[misc]
    after = group(loop, engine, "b", 1)
    release(engine)
    for future in [held, *futures, after]:
        future.result(5)
    assert engine.log[3:8] == [Phase.PAUSE, Phase.START, Phase.UPDATE, Phase.FINISH, Phase.RESUME]
    assert engine.log[8:] == ["begin b", ["b"]]
    # The next push begins with its own pause.
    futures = [
        loop.phase(phase, lambda phase=phase: engine.log.append(phase))
        for phase in reversed(Phase)
        if phase is not Phase.CONNECT
    ]  # type: ignore[misc]
    for future in futures:
        future.result(5)
    assert engine.log[-5:] == [Phase.PAUSE, Phase.START, Phase.UPDATE, Phase.FINISH, Phase.RESUME]


def test_an_error_in_beginning_is_that_groups_alone(loop: EngineLoop, engine: Engine) -> None:
    def refuse() -> str:
        raise ValueError("too long")

    good, bad = group(loop, engine, "a", 2), loop.group(refuse)
    release(engine)
    assert good.result(5) == "A"
    with pytest.raises(ValueError, match="too long"):
        bad.result(5)


def test_a_crash_is_told_to_all_that_ran_and_the_loop_goes_on(loop: EngineLoop, engine: Engine) -> None:
    futures = [group(loop, engine, name, 3) for name in "ab"]
    engine.crash = True
    engine.gate.release(2)  # two, if the second group comes a step later
    for future in futures:
        with pytest.raises(EngineCrashedError):
            future.result(5)
    engine.crash = False
    release(engine)
    assert group(loop, engine, "c", 1).result(5) == "C"
