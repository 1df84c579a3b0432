"""Batches made ready while the one before is learned.

What lives here: the thread, and how long its caller waited for it. What does not: what a batch is (train_loop.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """The values of ``make(step)`` for steps ``start`` … ``stop`` − 1, in order.

    One thread makes them, so ``make`` need not be safe against itself, and they are what they would be without it. An
    error is raised by the ``take`` of its step.

    Args:
        make: of a step.
        start: the first.
        stop: the first that is not made.
        ahead: how many are held at most, beside the one that was taken.
        initializer: called in the thread before anything.
    """

    def __init__(
        self,
        make: Callable[[int], T],
        start: int,
        stop: int,
        *,
        ahead: int = 2,
        initializer: Callable[[], object] | None = None,
    ) -> None:
        self._make, self._next, self._stop, self._ahead = make, start, stop, ahead
        self._thread = ThreadPoolExecutor(1, "prefetch", initializer)
        self._made: deque[Future[T]] = deque()
        self.waited = 0.0
        """Seconds that the last ``take`` took."""

    def take(self) -> T:
        """The value of the next step."""
        began = time.perf_counter()
        self._fill()
        value = self._made.popleft().result()
        self._fill()
        self.waited = time.perf_counter() - began
        return value

    def _fill(self) -> None:
        while self._next < self._stop and len(self._made) < self._ahead:
            self._made.append(self._thread.submit(self._make, self._next))
            self._next += 1

    def __enter__(self) -> Self:
        self._fill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
