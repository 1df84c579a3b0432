"""Ctrl-C and SIGTERM mean one thing: stop, leave a checkpoint, and say so.

What lives here: turning both signals into one exception in the main thread. What does not: writing
the checkpoint (the stage that runs does it when it sees the exception).
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class Interrupt:
    """Which signal came, if any. Ray replaces the exception raised inside its calls, so it is kept here."""

    number: int | None = None

    @property
    def exit_code(self) -> int:
        """As shells count: 128 + signal number."""
        return 128 + (self.number or signal.SIGINT)


@contextlib.contextmanager
def interruptible(interrupt: Interrupt) -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread at the first SIGINT or SIGTERM, and again at each further one.

    ``interrupt`` is told which. Ray sends SIGTERM to a job that is stopped, and batch systems do so before
    the time is up.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        if interrupt.number is None:
            print("\nstopping: leaving a checkpoint (once more to stop at once)", file=sys.stderr, flush=True)
        interrupt.number = number
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, stop) for each in numbers}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def finish_first() -> Iterator[None]:
    """Let the block end before the first SIGINT or SIGTERM takes effect; a second one takes effect at once.

    For work that is quick and must be whole, such as one update of the learner. Off the main thread, which gets no
    signals, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}

    def pass_on(number: int) -> None:
        handler = before[number]
        if callable(handler):
            handler(number, None)
        else:
            raise KeyboardInterrupt

    def hold(number: int, _frame: FrameType | None) -> None:
        pending.append(number)
        if len(pending) == 1:
            print("\nstopping after this update (once more to stop at once)", file=sys.stderr, flush=True)
        else:
            pass_on(number)

    for number in numbers:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if pending:
        pass_on(pending[0])
