"""Which item goes to which member, step by step."""

from __future__ import annotations

from boxmed_ray.actors.pool_items import Item, Member, Ready
from tests.actors.simulated import SimulatedWorker


def item(epoch: int = 0) -> Item:
    return Item(("echo", (0,), {}), epoch=epoch)


def member(number: int, epoch: int = 0) -> Member:
    return Member(f"worker-{number}", number, SimulatedWorker(), capacity=2, started=0.0, epoch=epoch)


def busy_with_a_suspect(ready: Ready) -> tuple[Member, int]:
    """A member that has not seen refresh 1, kept for a suspect, which it has; items that need refresh 1 go out."""
    kept, other = member(1), member(2, epoch=1)
    ready.offer(kept)
    suspect = item()
    ready.append_suspect(suspect)
    assert ready.match() == (suspect, kept)
    number = kept.take(suspect, 0.0, proven=True)
    ready.offer(other)
    newer = item(epoch=1)
    ready.append(newer)
    assert ready.match() == (newer, other)
    other.take(newer, 0.0, proven=True)
    return kept, number


def test_a_member_that_was_kept_for_suspects_gets_no_item_that_needs_a_refresh_it_has_not_seen() -> None:
    ready = Ready()
    kept, number = busy_with_a_suspect(ready)
    kept.give_back(number)
    ready.offer(kept)
    ready.append(item(epoch=1))
    pair = ready.match()
    assert pair is not None
    assert pair[1].epoch == 1
    assert ready.outdated == [kept]


def test_nor_a_suspect_that_needs_one() -> None:
    ready = Ready()
    kept, number = busy_with_a_suspect(ready)
    kept.give_back(number)
    suspect, idle = item(epoch=1), member(3, epoch=1)
    ready.append_suspect(suspect)
    ready.offer(idle)
    assert ready.match() == (suspect, idle)
    assert ready.outdated == [kept]


def test_who_has_seen_enough_is_kept_for_the_next_suspect_and_gets_ordinary_items_after_the_last() -> None:
    ready = Ready()
    only = member(1)
    ready.offer(only)
    suspects, ordinary = [item(), item()], item()
    ready.append(ordinary)
    for suspect in suspects:
        ready.append_suspect(suspect)
    for suspect in suspects:
        assert ready.match() == (suspect, only)
        number = only.take(suspect, 0.0, proven=True)
        assert ready.match() is None
        only.give_back(number)
        ready.offer(only)
    assert ready.match() == (ordinary, only)
    assert ready.queued == 0
