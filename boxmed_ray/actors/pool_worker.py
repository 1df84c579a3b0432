"""How a pool reaches one worker: a method is called and a future comes back.

What lives here: the interface, and its form over Ray. What does not: which worker gets what (pool.py).
A pool does not know Ray, so that a simulation can put other workers behind the same queue.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError


class Worker(Protocol):
    """One worker; it has a method ``ready`` that answers once it can work."""

    def call(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin ``method`` without waiting; an error in beginning it is the future's too."""

    def death(self, error: BaseException) -> str | None:
        """Why the worker is gone, if ``error`` says so; None for an error of the method itself."""

    def kill(self) -> None:
        """End it at once, whatever it does."""


@dataclass(frozen=True, slots=True, eq=False)
class RayWorker:
    """A Ray actor, made with ``max_restarts=0``: the pool replaces it, because a new one has to be given weights."""

    handle: Any

    def call(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        """See ``Worker``."""
        try:
            answer: Future[Any] = getattr(self.handle, method).remote(*args, **kwargs).future()
        except RayError as error:
            answer = Future()
            answer.set_exception(error)
        return answer

    def death(self, error: BaseException) -> str | None:
        """Every error of Ray that the method did not raise: the actor, its node, or its result is lost."""
        if not isinstance(error, RayError) or isinstance(error, RayTaskError):
            return None
        lines = str(error).strip().splitlines()
        if "creation task" in lines[0]:
            return lines[-1].strip()  # the actor's own traceback follows, and ends with its own error
        return f"{type(error).__name__}: {lines[0]}"

    def kill(self) -> None:
        """See ``Worker``."""
        ray.kill(self.handle)
