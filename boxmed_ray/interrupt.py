"""Ctrl-C and SIGTERM mean one thing: stop, leave a checkpoint, and say so.

What lives here: turning both signals into one exception in the main thread. What does not: writing
the checkpoint (the stage that runs does it when it sees the exception).
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A request to stop. ``exit_code`` follows the shell: 128 + signal number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted in the main thread at the first SIGINT or SIGTERM, and again at each further one.

    Ray sends SIGTERM to a job that is stopped, and batch systems do so before the time is up.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        print("\nstopping: leaving a checkpoint (once more to stop at once)", file=sys.stderr, flush=True)
        raise Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
