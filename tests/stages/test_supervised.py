"""Following a stage's workers while a real signal arrives."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from types import FrameType

import pytest

from boxmed_ray.stages import supervised
from boxmed_ray.stages.train_loop import PROGRESS, STOP

STEP_S = 0.02


class Steps(threading.Thread):
    """Stands where Ray Train's call stands: steps until the stop file is there, then takes its time to end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.error, self.ended = folder, None, threading.Event()

    def run(self) -> None:
        step = 0
        while not (self.folder / STOP).exists():
            step += 1
            with (self.folder / PROGRESS).open("a") as file:
                file.write(json.dumps({"step": step}) + "\n")
            time.sleep(STEP_S)
        time.sleep(0.5)
        (self.folder / "checkpoint").write_text(str(step))
        self.ended.set()


def test_a_signal_while_waiting_does_not_leave_before_the_workers_checkpoint(tmp_path: Path) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    seen: list[int] = []
    try:
        signal.setitimer(signal.ITIMER_REAL, 10 * STEP_S)
        with pytest.raises(KeyboardInterrupt):
            supervised._follow(Steps(tmp_path), tmp_path, lambda line: seen.append(line["step"]))  # type: ignore[arg-type]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    last = int((tmp_path / "checkpoint").read_text())
    assert seen == list(range(1, last + 1))
    assert not (tmp_path / STOP).exists()
