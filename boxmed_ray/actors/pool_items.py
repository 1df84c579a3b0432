"""The books of a pool: its items, its members, and which item goes to which member.

What lives here: plain records and the queue, without threads, time or Ray. What does not: who calls whom
(pool.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line reads the errors, and need not wait for Ray
    from boxmed_ray.actors.pool_worker import Worker


class PoolError(RuntimeError):
    """A pool that cannot go on: its workers do not start, or it was shut down."""


class LostError(RuntimeError):
    """An item that was given up: worker after worker was lost on it.

    Attributes:
        tries: workers that were.
        why: the last one's end.
    """

    def __init__(self, pool: str, tries: int, why: str) -> None:
        super().__init__(f"{pool}: given up after {tries} workers were lost on it; the last: {why}")
        self.tries, self.why = tries, why


@dataclass(slots=True, eq=False)
class Item:
    """A call to be made.

    Attributes:
        call: method, arguments, keyword arguments.
        cost: units of a worker's capacity.
        epoch: refreshes of the pool before it: its worker must have seen them.
        tries: workers that were lost on it.
        excused: workers that were lost on it and may have been dead before.
    """

    call: tuple[str, tuple[Any, ...], dict[str, Any]]
    cost: int = 1
    epoch: int = 0
    future: Future[Any] = field(default_factory=Future)
    tries: int = 0
    excused: int = 0


@dataclass(slots=True)
class Held:
    """An item on a worker.

    Attributes:
        deadline: seconds of the monotonic clock.
        proven: whether the worker was known to be alive shortly before.
    """

    item: Item
    deadline: float
    proven: bool


class State(Enum):
    """STARTING → STALE → PREPARING → SERVING → RETIRING; one that must be refreshed goes back to STALE."""

    STARTING = auto()
    STALE = auto()
    PREPARING = auto()
    SERVING = auto()
    RETIRING = auto()


@dataclass(slots=True, eq=False)
class Member:
    """A worker and what it holds.

    Attributes:
        started: seconds of the monotonic clock.
        answered: when it last answered anything.
        epoch: refreshes of the pool that it has seen.
    """

    name: str
    number: int
    worker: Worker
    capacity: int
    started: float
    answered: float = 0.0
    state: State = State.STARTING
    epoch: int = 0
    items: dict[int, Held] = field(default_factory=dict)
    load: int = 0
    taken: int = 0

    @property
    def ready(self) -> bool:
        """Whether it has started and stays."""
        return self.state in {State.STALE, State.PREPARING, State.SERVING}

    def fits(self, cost: int) -> bool:
        """Whether it can take an item of ``cost``: an empty one takes any."""
        return not self.items or self.load + cost <= self.capacity

    def take(self, item: Item, deadline: float, *, proven: bool) -> int:
        """Put an item on it; the number under which it is held."""
        self.taken += 1
        self.items[self.taken] = Held(item, deadline, proven)
        self.load += item.cost
        return self.taken

    def give_back(self, number: int) -> Item:
        """Take an item off it."""
        item = self.items.pop(number).item
        self.load -= item.cost
        return item

    def late(self, now: float) -> bool:
        """Whether an item is past its deadline: the oldest is the first to be."""
        return bool(self.items) and next(iter(self.items.values())).deadline < now


class Ready:
    """Items that wait and members that have room, and pairs of them.

    Items go out in their order, to members in turn, so that load spreads. A *suspect* (a worker was lost on it,
    perhaps through it) goes to a member that has nothing else, so that whoever kills its worker does it alone.
    One member at a time is kept for suspects.

    A member that has not seen the refreshes that the next item needs takes no more and goes to ``outdated``, which
    the pool empties. Until an item needs them it goes on without: fresh weights come when they must, and not in
    the middle of what older ones may still do.
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._suspects: deque[Item] = deque()
        self._room: dict[str, Member] = {}
        self._kept: Member | None = None
        self._epoch = 0  # that items need which go out now
        self.outdated: list[Member] = []
        self.queued = 0
        """Units of all items that wait."""

    def append(self, item: Item) -> None:
        """Queue an item behind the others."""
        self._items.append(item)
        self.queued += item.cost

    def append_first(self, item: Item) -> None:
        """Queue an item before the others."""
        self._items.appendleft(item)
        self.queued += item.cost

    def append_suspect(self, item: Item) -> None:
        """Queue an item that is to be alone on its worker; suspects go first."""
        self._suspects.append(item)
        self.queued += item.cost

    def offer(self, member: Member) -> None:
        """A member has room, or more of it."""
        if member is self._kept:
            return
        if member.epoch < self._epoch:
            self.outdated.append(member)
        else:
            self._room[member.name] = member

    def withdraw(self, member: Member) -> None:
        """A member takes no more."""
        self._room.pop(member.name, None)
        if member is self._kept:
            self._kept = None

    def match(self) -> tuple[Item, Member] | None:
        """The next item and who takes it; None when nothing fits."""
        pair = self._suspect_pair() or self._pair()
        if pair is not None:
            self.queued -= pair[0].cost
        return pair

    def clear(self) -> Iterator[Item]:
        """Give out all items."""
        yield from self._suspects
        yield from self._items
        self._suspects.clear()
        self._items.clear()
        self.queued = 0

    def _suspect_pair(self) -> tuple[Item, Member] | None:
        kept, next_up = self._kept, self._suspects[0] if self._suspects else None
        if kept is not None and not kept.items and (next_up is None or kept.epoch < next_up.epoch):
            self._kept = None
            self.offer(kept)
        if next_up is None:
            return None
        if self._kept is None and self._room:
            self._kept = next((m for m in self._room.values() if not m.items), next(iter(self._room.values())))
            del self._room[self._kept.name]
        if self._kept is None or self._kept.items:
            return None
        return self._suspects.popleft(), self._kept

    def _pair(self) -> tuple[Item, Member] | None:
        if not self._items:
            return None
        item = self._items[0]
        if item.epoch > self._epoch:
            self._epoch = item.epoch
            for old in [member for member in self._room.values() if member.epoch < item.epoch]:
                del self._room[old.name]
                self.outdated.append(old)
        member = next((member for member in self._room.values() if member.fits(item.cost)), None)
        if member is None:
            return None
        del self._room[member.name]
        if member.load + item.cost < member.capacity:
            self._room[member.name] = member  # in turn: behind the others
        return self._items.popleft(), member
