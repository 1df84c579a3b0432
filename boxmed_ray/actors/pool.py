"""An elastic pool of equal workers that draw work from one queue; a dead one is replaced and its work redone.

What lives here: the queue, dispatch, deadlines, starting and ending workers. What does not: what workers
do (rollout.py, reward.py), the bookkeeping of one worker or item (pool_items.py), when to grow (scaling.py), and
which weights a worker holds (``prepare`` brings one up to date).

    submit ──▶ queue ──▶ worker with room ──▶ future
                 ▲            │ dies, is late, is out of service
                 └── redone ──┘ (alone; given up after max_tries: LostError)

One thread owns all state and learns everything by events, so that no call of a worker, however long, holds up
another. An item goes to whichever worker has room: a straggler holds up its own items and nothing else.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from boxmed_ray.actors.pool_items import Held, Item, LostError, Member, PoolError, Ready, State
from boxmed_ray.actors.pool_worker import Worker
from boxmed_ray.actors.scaling import Limits, Load, Pace, Scaler

log = logging.getLogger(__name__)

_TICK_S = 0.25
"""Between looks at the load and at deadlines, where no event comes first."""
_START_TRIES = 3
"""Workers that may fail to start one after the other."""
_PROOF_S = 1.0
"""For that long after an answer a worker counts as alive."""
_PREPARERS = 256
"""Workers brought up to date side by side; a thread is made when it is needed."""


class Pool:
    """Workers made by ``spawn``, all alike.

    Args:
        name: for messages, "rollout" for instance.
        spawn: number → new worker.
        limits: of the number of workers; ``launch`` starts the fewest.
        capacity: units of work that a worker holds at once; an item has a cost in these units.
        timeout_s: of one item on one worker; a worker that exceeds it is replaced.
        start_timeout_s: until ``ready`` answers; on a cluster that first has to add a node, this takes minutes.
        max_tries: workers that may be lost on one item before it is given up.
        unfit: errors of a method that say that its worker, not the item, is no good.
        crashes: errors of a method after which its worker is no good, perhaps through the item.
        prepare: called with name and worker, which has no items then, before it gets its first one, and again after
            every ``refresh``; off the pool's thread, one call per worker at a time. If it raises, the worker is
            replaced.
        pace: of growing and shrinking.
        on_event: told every change and loss in words.
    """

    def __init__(
        self,
        name: str,
        spawn: Callable[[int], Worker],
        limits: Limits,
        *,
        timeout_s: float,
        capacity: int = 1,
        start_timeout_s: float = 600.0,
        max_tries: int = 3,
        unfit: tuple[type[BaseException], ...] = (),
        crashes: tuple[type[BaseException], ...] = (),
        prepare: Callable[[str, Worker], None] = lambda _name, _worker: None,
        pace: Pace | None = None,
        on_event: Callable[[str], None] = log.info,
    ) -> None:
        self._name, self._spawn, self._capacity = name, spawn, capacity
        self._timeout_s, self._start_timeout_s, self._max_tries = timeout_s, start_timeout_s, max_tries
        self._unfit, self._crashes, self._tell = unfit, crashes, on_event
        self._prepare = prepare
        self._scaler = Scaler(limits, pace or Pace())
        self._members: dict[str, Member] = {}
        self._ready = Ready()
        self._stale: list[Member] = []
        self._epoch = 0
        self._spawned = self._failed_starts = self._waiters = 0
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ending, self._closed = False, True
        self._broken: PoolError | None = None
        self._preparers = ThreadPoolExecutor(_PREPARERS, f"{name}-prepare")
        self._watchers: list[tuple[Callable[[], bool], Future[None]]] = []
        self._news = False  # since the watchers were last asked

    # From any thread

    def launch(self) -> None:
        """Begin to start workers, side by side, without waiting for them."""
        self._ending = self._closed = False
        self._broken = None
        self._thread = threading.Thread(target=self._run, name=f"{self._name}-pool", daemon=True)
        self._thread.start()

    def wait_ready(self) -> None:
        """Wait until ``min`` workers are ready and prepared.

        Raises:
            PoolError: workers do not start, with their own error.
        """

        def enough() -> bool:
            fresh = sum(member.state is State.SERVING for member in self._members.values())
            return fresh >= self._scaler.limits.min

        self._when(lambda: enough).result()

    def submit(self, method: str, payload: Any, *args: Any, cost: int = 1, **kwargs: Any) -> Future[Any]:
        """Queue the call ``method(payload, *args, **kwargs)``.

        Args:
            method: of the worker.
            payload: first argument.
            args, kwargs: the others.
            cost: units of capacity; an item dearer than a whole worker gets one for itself.

        Returns:
            A future of the result. Its error is ``LostError`` where the item was given up, ``PoolError`` where
            the pool has broken, and otherwise the method's own.

        Raises:
            PoolError: the pool is not running.
        """
        if self._closed:
            raise self._broken or PoolError(f"{self._name} pool was not launched")
        item = Item((method, (payload, *args), kwargs), cost)
        self._events.put(partial(self._enqueue, item))
        return item.future

    def run(self, method: str, payloads: Sequence[Any], *args: Any, cost: int = 1, **kwargs: Any) -> list[Any]:
        """``submit`` for every payload, and wait; results in their order."""
        futures = [self.submit(method, payload, *args, cost=cost, **kwargs) for payload in payloads]
        with self.waiting():
            return [future.result() for future in futures]

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the pool know that its results are waited for: only then it grows."""
        self._events.put(partial(self._count_waiter, 1))
        try:
            yield
        finally:
            self._events.put(partial(self._count_waiter, -1))

    def refresh(self, prepare: Callable[[str, Worker], None] | None = None) -> Future[None]:
        """Have ``prepare`` called for every worker before it gets an item that is submitted after this.

        An idle worker is prepared at once. A busy one goes on with older items until one needs it that is newer; then
        it takes no more, and is prepared when it has ended those that it has.

        Args:
            prepare: to be used from now on; by default the present one.

        Returns:
            Done once every worker that serves has seen this refresh.
        """
        if prepare is not None:
            self._prepare = prepare
        return self._when(self._next_epoch)

    def resize(self, limits: Limits) -> None:
        """New limits, kept at once; workers that are too many end when their items have."""
        self._events.put(partial(self._keep_within, limits))

    @property
    def workers(self) -> dict[str, Worker]:
        """Those that are ready, by name."""
        return {member.name: member.worker for member in list(self._members.values()) if member.ready}

    @property
    def queued(self) -> int:
        """Units of work that no worker has yet."""
        return self._ready.queued

    def shutdown(self) -> None:
        """End every worker; safe to call twice. The pool can be launched again."""
        if self._thread is None:
            return
        self._events.put(partial(setattr, self, "_ending", True))
        self._thread.join()
        self._thread = None

    # In the pool's thread

    def _run(self) -> None:
        tick = 0.0
        try:
            self._start(self._scaler.limits.min)
            while not self._ending:
                self._handle_events()
                if self._broken is None:
                    if (now := time.monotonic()) >= tick:
                        tick = now + _TICK_S
                        self._replace_late(now)
                        self._scale(now)
                    self._dispatch()
                self._look()
        except BaseException as error:
            log.exception("%s pool", self._name)
            self._broken = PoolError(f"{self._name} pool: {error!r}")
        finally:
            self._close()

    def _close(self) -> None:
        self._closed = self._news = True
        self._broken = self._broken or PoolError(f"{self._name} pool was shut down")
        for member in list(self._members.values()):
            self._end(member)
            for held in member.items.values():
                held.item.future.set_exception(self._broken)
        with suppress(queue.Empty):
            while True:
                self._events.get_nowait()()
        self._fail_queued(self._broken)
        self._look()

    def _handle_events(self) -> None:
        with suppress(queue.Empty):
            self._events.get(timeout=_TICK_S)()
            while True:
                self._events.get_nowait()()

    def _enqueue(self, item: Item) -> None:
        if self._broken is not None:
            item.future.set_exception(self._broken)
        else:
            item.epoch = self._epoch
            self._ready.append(item)

    def _dispatch(self) -> None:
        while (pair := self._ready.match()) is not None:
            item, member = pair
            now = time.monotonic()
            number = member.take(
                item, now + self._timeout_s, proven=bool(member.items) or now < member.answered + _PROOF_S
            )
            method, args, kwargs = item.call
            answer = member.worker.call(method, *args, **kwargs)
            self._then(answer, self._over, member, number)
        while self._ready.outdated:
            self._make_stale(self._ready.outdated.pop())
        while self._stale:
            self._bring_up_to_date(self._stale.pop())

    def _then(self, future: Future[Any], handle: Callable[..., None], *args: Any) -> None:
        """Once the future is done, handle it in the pool's thread, as the last argument."""
        future.add_done_callback(lambda done: self._events.put(partial(handle, *args, done)))

    def _over(self, member: Member, number: int, answer: Future[Any]) -> None:
        """An item is done, or its worker is gone."""
        if number not in member.items or member.name not in self._members:
            return  # the worker was given up before it answered
        error = answer.exception()
        why = None if error is None else member.worker.death(error)
        if why is not None or isinstance(error, self._crashes):
            self._lose(member, why or str(error))
        elif isinstance(error, self._unfit):
            self._lose(member, str(error), blame=False)
        else:
            member.answered = time.monotonic()
            item = member.give_back(number)
            self._make_room(member)
            if error is None:
                item.future.set_result(answer.result())
            else:
                item.future.set_exception(error)

    def _make_room(self, member: Member) -> None:
        if member.state is State.SERVING:
            self._ready.offer(member)
            self._renew_if_idle(member)
        elif member.state is State.STALE and not member.items:
            self._stale.append(member)
        elif member.state is State.RETIRING and not member.items:
            self._end(member)

    def _lose(self, member: Member, why: str, *, blame: bool = True) -> None:
        """Replace a worker; its items are redone, alone if one of them may have been the cause, or given up."""
        held = list(member.items.values())
        self._end(member)
        self._tell(f"{member.name} lost with {len(held)} items: {why}")
        for each in reversed(held):
            if not blame:
                self._ready.append_first(each.item)
            elif self._try_again(each):
                self._ready.append_suspect(each.item)
            else:
                error = LostError(self._name, each.item.tries, why)
                self._tell(str(error))
                each.item.future.set_exception(error)
        self._failed_starts += not member.answered
        if self._failed_starts >= _START_TRIES and not self._serving():
            self._broken = PoolError(f"{member.name} did not start, nor did {_START_TRIES - 1} before it: {why}")
            self._fail_queued(self._broken)
        elif self._serving() + self._starting() < max(self._scaler.limits.min, 1):
            self._start(1)  # whatever the load: the limits say so

    def _try_again(self, held: Held) -> bool:
        """Count a lost worker against an item; whether it may have another."""
        item = held.item
        if held.proven or item.excused == self._max_tries:
            item.tries += 1
        else:
            item.excused += 1  # perhaps it died in idleness, and the item found out
        return item.tries < self._max_tries

    def _replace_late(self, now: float) -> None:
        for member in list(self._members.values()):
            if member.state is State.STARTING and now > member.started + self._start_timeout_s:
                self._lose(member, f"not ready within {self._start_timeout_s:g} s")
            elif member.late(now):
                self._lose(member, f"no answer within {self._timeout_s:g} s")

    # Workers come and go

    def _keep_within(self, limits: Limits) -> None:
        self._scaler.limits, self._news = limits, True

    def _scale(self, now: float) -> None:
        for member in self._members.values():
            self._renew_if_idle(member)
        busy = sum(bool(member.items) for member in self._members.values())
        load = Load(self._ready.queued, self._capacity, busy, self._serving(), self._starting(), self._waiters > 0)
        decision = self._scaler.decide(now, load)
        if decision is None:
            return
        size = load.serving + load.starting
        self._tell(f"{self._name} pool {size} -> {size + decision.change}: {decision.reason}")
        if decision.change > 0:
            self._start(decision.change)
        else:
            self._retire(-decision.change)

    def _start(self, count: int) -> None:
        for _ in range(count):
            self._spawned += 1
            name = f"{self._name}-{self._spawned}"
            member = Member(name, self._spawned, self._spawn(self._spawned), self._capacity, time.monotonic())
            self._members[name] = member
            self._then(member.worker.call("ready"), self._started, member)

    def _retire(self, count: int) -> None:
        alive = [member for member in self._members.values() if member.state is not State.RETIRING]
        # The idle before the busy; then the youngest, because nodes that were added last are to empty first.
        alive.sort(key=lambda member: (bool(member.items), -member.number))
        for member in alive[:count]:
            member.state, self._news = State.RETIRING, True
            self._ready.withdraw(member)
            self._make_room(member)

    def _started(self, member: Member, answer: Future[Any]) -> None:
        if self._members.get(member.name) is not member or member.state is not State.STARTING:
            return
        error = answer.exception()
        if error is not None:
            self._lose(member, member.worker.death(error) or str(error))
            return
        self._make_stale(member)

    def _make_stale(self, member: Member) -> None:
        if member.state is State.RETIRING:
            return
        member.state = State.STALE
        self._ready.withdraw(member)
        self._make_room(member)

    def _bring_up_to_date(self, member: Member) -> None:
        if member.state is not State.STALE:
            return  # retired or lost meanwhile
        member.state, epoch = State.PREPARING, self._epoch
        prepared = self._preparers.submit(self._prepare, member.name, member.worker)
        self._then(prepared, self._prepared, member, epoch)

    def _prepared(self, member: Member, epoch: int, done: Future[None]) -> None:
        if self._members.get(member.name) is not member or member.state is not State.PREPARING:
            return
        if (error := done.exception()) is not None:
            self._lose(member, (str(error).splitlines() or [repr(error)])[0], blame=False)
            return
        self._failed_starts = 0
        member.epoch, member.answered, member.state = epoch, time.monotonic(), State.SERVING
        self._news = True
        self._make_room(member)

    def _next_epoch(self) -> Callable[[], bool]:
        """Begin one; whether all have seen it."""
        self._epoch = epoch = self._epoch + 1
        for member in self._members.values():
            self._renew_if_idle(member)
        return lambda: all(member.epoch >= epoch for member in self._members.values() if member.ready)

    def _renew_if_idle(self, member: Member) -> None:
        behind = member.state is State.SERVING and member.epoch < self._epoch
        if behind and not member.items and not self._ready.queued:
            self._make_stale(member)

    def _end(self, member: Member) -> None:
        del self._members[member.name]
        self._news = True
        self._ready.withdraw(member)
        member.worker.kill()

    def _serving(self) -> int:
        return sum(member.ready for member in self._members.values())

    def _starting(self) -> int:
        return sum(member.state is State.STARTING for member in self._members.values())

    # Those who wait

    def _count_waiter(self, change: int) -> None:
        self._waiters += change

    def _when(self, begin: Callable[[], Callable[[], bool]]) -> Future[None]:
        """A future that is done once what ``begin`` returns holds; both are called in the pool's thread."""
        done: Future[None] = Future()

        def watch() -> None:
            self._watchers.append((begin(), done))
            self._news = True

        self._events.put(watch)
        return done

    def _look(self) -> None:
        """Ask the watchers, where a member has changed: to ask after every item would be to go through all members."""
        if not self._news:
            return
        self._news = False
        for watcher in list(self._watchers):
            holds, done = watcher
            if self._broken is not None:
                done.set_exception(self._broken)
            elif holds():
                done.set_result(None)
            else:
                continue
            self._watchers.remove(watcher)

    def _fail_queued(self, error: PoolError) -> None:
        for item in self._ready.clear():
            item.future.set_exception(error)
