"""When a pool grows and shrinks, moment by moment."""

from __future__ import annotations

import pytest

from boxmed_ray.actors.scaling import Limits, Load, Pace, Scaler


def load(queued: int = 0, busy: int = 0, serving: int = 1, starting: int = 0, waiting: bool = True) -> Load:
    return Load(queued, 4, busy, serving, starting, waiting)


def changes(scaler: Scaler, moments: list[tuple[float, Load]]) -> list[int]:
    decisions = [scaler.decide(now, each) for now, each in moments]
    return [0 if decision is None else decision.change for decision in decisions]


def test_it_grows_only_after_a_wait_that_was_not_interrupted() -> None:
    scaler = Scaler(Limits(1, 8), Pace(grow_after_s=2, shrink_after_s=60))
    full = load(queued=9, busy=1)
    assert changes(scaler, [(0, full), (1.9, full), (2.0, full)]) == [0, 0, 3]  # nine units are three workers of four
    assert changes(scaler, [(3, full), (4, load()), (5, full), (6.9, full), (7.0, full)]) == [0, 0, 0, 0, 3]


def test_it_waits_for_workers_that_are_starting_and_never_exceeds_the_most() -> None:
    scaler = Scaler(Limits(1, 3), Pace(grow_after_s=1, shrink_after_s=60))
    full = load(queued=99, busy=1)
    assert changes(scaler, [(0, full), (1, full)]) == [0, 2]
    starting = load(queued=99, busy=1, starting=1)
    assert changes(scaler, [(2, starting), (9, starting)]) == [0, 0]


def test_nobody_who_waits_means_no_growth() -> None:
    scaler = Scaler(Limits(1, 3), Pace(grow_after_s=1, shrink_after_s=60))
    ahead = load(queued=99, busy=1, waiting=False)
    assert changes(scaler, [(0, ahead), (5, ahead), (10, ahead)]) == [0, 0, 0]


def test_it_keeps_as_many_as_were_busy_at_once_in_the_window() -> None:
    scaler = Scaler(Limits(1, 8), Pace(grow_after_s=1, shrink_after_s=10))
    rest, work = load(busy=0, serving=4), load(busy=4, serving=4)
    # Busy for a second in every nine: a run whose workers rest while the learner learns keeps them.
    moments = [(t, work if t % 9 == 0 else rest) for t in range(40)]
    assert changes(scaler, moments) == [0] * 40
    assert changes(scaler, [(40 + t, load(busy=2, serving=4)) for t in range(12)]).count(-2) == 1


def test_after_a_change_the_window_begins_anew() -> None:
    scaler = Scaler(Limits(0, 8), Pace(grow_after_s=0, shrink_after_s=10))
    assert changes(scaler, [(0, load(queued=1, serving=0)), (1, load(serving=1)), (9, load(serving=1))]) == [1, 0, 0]
    assert changes(scaler, [(10, load(serving=1)), (11, load(serving=0))]) == [-1, 0]


def test_it_follows_new_limits_at_once() -> None:
    scaler = Scaler(Limits(1, 2), Pace())
    scaler.limits = Limits(3, 5)
    assert changes(scaler, [(0, load(serving=1))]) == [2]
    scaler.limits = Limits(0, 1)
    assert changes(scaler, [(1, load(serving=3, busy=3, queued=5))]) == [-2]


def test_reasons_name_the_numbers() -> None:
    scaler = Scaler(Limits(1, 4), Pace(grow_after_s=1, shrink_after_s=5))
    scaler.decide(0, load(queued=5, busy=2, serving=2))
    decision = scaler.decide(1.5, load(queued=5, busy=2, serving=2))
    assert decision is not None
    assert decision.reason == "waited 1.5 s with 5 units queued and 2 workers full"


@pytest.mark.parametrize(("least", "most"), [(2, 1), (-1, 1), (0, 0)])
def test_limits_that_make_no_sense_are_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match="min ≤ max"):
        Limits(least, most)
