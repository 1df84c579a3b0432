"""Workers of a pool without Ray: threads that answer after a while, and die or hang when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any


class DiedError(RuntimeError):
    """What a call of a dead worker ends with."""


@dataclass(eq=False)
class SimulatedWorker:
    """Runs every call in a thread of its own.

    Attributes:
        work: argument of a call → its result; raises DiedError to die of it.
        start_s: until ``ready`` answers.
        seen: arguments, in the order of their arrival.
        at_once: the most calls that ran side by side.
    """

    work: Callable[[Any], Any] = lambda value: value
    start_s: float = 0.0
    seen: list[Any] = field(default_factory=list)
    at_once: int = 0
    alive: bool = True
    _open: list[Future[Any]] = field(default_factory=list)

    def call(self, method: str, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if not self.alive:
            future.set_exception(DiedError("dead already"))
            return future
        if method != "ready":
            self.seen.append(args[0])
            self._open.append(future)
            self.at_once = max(self.at_once, len(self._open))
        threading.Thread(target=self._run, args=(future, method, args), daemon=True).start()
        return future

    def death(self, error: BaseException) -> str | None:
        return str(error) if isinstance(error, DiedError) else None

    def kill(self) -> None:
        """Everything that runs ends with the worker."""
        self.alive = False
        for future in list(self._open):
            self._answer(future, DiedError("killed"))

    def _run(self, future: Future[Any], method: str, args: tuple[Any, ...]) -> None:
        if method == "ready":
            time.sleep(self.start_s)
            future.set_result(True)
            return
        try:
            result = self.work(args[0])
        except DiedError:
            self.kill()
        except Exception as error:
            self._answer(future, error)
        else:
            self._answer(future, result)

    def _answer(self, future: Future[Any], result: Any) -> None:
        if future not in self._open:
            return
        self._open.remove(future)
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
