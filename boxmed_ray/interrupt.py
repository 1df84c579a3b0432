"""Ctrl-C and SIGTERM mean one thing: stop, leave a checkpoint, and say so.

What lives here: turning both signals into one exception in the main thread. What does not: writing
the checkpoint (the stage that runs does it when it sees the exception).
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


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

    ``interrupt`` is told which. Ray sends SIGTERM to a job that is stopped, and batch systems do so before the time is up.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        if interrupt.number is None:
            print("\nstopping: leaving a checkpoint (once more to stop at once)", file=sys.stderr, flush=True)
        interrupt.number = number
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
