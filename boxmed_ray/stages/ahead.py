"""Drawing updates ahead of the learner, as far as the staleness allows.

What lives here: which update may be drawn when. What does not: how one is drawn (sampler.py).

    staleness 0    draw u ── learn u ── push ── draw u+1 ── …
    staleness 1    draw u+1 begins when the weights of update u are out, and runs while u is learned

An update is begun when the learner stands at most ``staleness`` updates before it, and workers take new weights
before new work. So every group of update u was sampled from version u − staleness or a newer one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from boxmed_ray.stages.drawing import Drawn


class Ahead:
    """Updates being drawn, each in a thread of its own.

    Args:
        draw: begins the update of that number, in the caller's thread; what it returns does the rest in another.
        staleness: updates ahead of the learner.
        start: first update to draw.
        stop: first one not to draw.
    """

    def __init__(self, draw: Callable[[int], Callable[[], Drawn]], staleness: int, start: int, stop: int) -> None:
        self._draw, self._staleness = draw, staleness
        self._next, self._stop = start, stop
        self._threads = ThreadPoolExecutor(staleness + 1, "draw")
        self._drawing: dict[int, Future[Drawn]] = {}

    def begin(self, learned: int) -> None:
        """The weights of ``learned`` updates are out: begin what may now be drawn."""
        while self._next < min(learned + self._staleness + 1, self._stop):
            self._drawing[self._next] = self._threads.submit(self._draw(self._next))
            self._next += 1

    def take(self, index: int) -> Drawn:
        """Wait for update ``index``; what drawing it raised is raised."""
        return self._drawing.pop(index).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error that the run goes on from, nothing of the old drawing may reach into the new one. After an
        # interrupt nobody waits: the threads end when the pools are shut down.
        self._threads.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
