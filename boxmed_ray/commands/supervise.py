"""`boxmed train --restarts N`: a run that is killed is gone on with.

What lives here: a parent that does nothing but wait. What does not: the run, which is a child process; a
run that fails by itself, or is stopped by Ctrl-C or SIGTERM, is not started again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType


def supervise(arguments: Sequence[str], restarts: int) -> int:
    """Run ``boxmed train`` with ``arguments``, and up to ``restarts`` times again when it is killed.

    A process that runs out of memory, or whose machine's operator loses patience, ends by a signal that it cannot
    answer. What was lost since its last checkpoint is done again.

    Returns:
        The last exit code; 128 + signal where it was killed once too often.
    """
    command, stopped, code = [*_TRAIN, *arguments], False, 0
    with _Child() as child:
        for attempt in range(restarts + 1):
            code, stopped = child.run(command)
            if code >= 0 or stopped or attempt == restarts:
                break
            print(
                f"the run was killed by {signal.Signals(-code).name}: going on with it "
                f"(restart {attempt + 1} of {restarts})",
                file=sys.stderr,
                flush=True,
            )
            if not {"--again", "--resume"} & set(command):
                command.append("--again")  # goes on with what is unfinished
    return code if code >= 0 else 128 - code


_TRAIN = [sys.executable, "-m", "boxmed_ray.cli", "train"]


class _Child:
    """One child at a time, to which SIGINT and SIGTERM are passed on."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def __enter__(self) -> _Child:
        self._before = {number: signal.signal(number, self._pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> tuple[int, bool]:
        """Exit code, below 0 for a signal; and whether it had been asked to stop."""
        # In a session of its own: a terminal's Ctrl-C would reach it twice, and twice means at once.
        self._process = subprocess.Popen(command, start_new_session=True)
        return self._process.wait(), self._stopped

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.send_signal(number)
