"""What several benchmarks share: one core and one thread, versions, medians, worker processes, the printed result.

What lives here: those. What does not: anything that one benchmark measures.

The benchmarks are scripts: ``python benchmarks/NAME.py`` puts this folder on the path.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}
_MARK = "RESULT "


def say(message: str) -> None:
    """Progress, for the person who waits."""
    print(message, file=sys.stderr, flush=True)


def versions(*packages: str) -> dict[str, str | None]:
    """Installed version of each package; None where it is not installed."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def last_core() -> int:
    """The core that measured processes are pinned to: the last allowed one, as the first serves interrupts."""
    return max(os.sched_getaffinity(0))


def pin_tree(core: int) -> int:
    """Pin every thread of this process and of all its descendants to ``core``; returns how many there were.

    Done when everything is up, so that start-up may use all cores. Threads started later inherit it.
    """
    pinned = 0
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    for process in processes:
        try:
            threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]
        except FileNotFoundError:
            continue  # it has ended
        for thread in threads:
            try:
                os.sched_setaffinity(thread, {core})
                pinned += 1
            except ProcessLookupError:
                continue
    return pinned


def cpu_seconds() -> dict[str, float]:
    """Processor time that this process and its living descendants have used, by Ray actor or "other".

    Beside wall time it tells waiting, and a machine busy with something else, from work.
    """
    used: dict[str, float] = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            times, title = process.cpu_times(), " ".join(process.cmdline()[:1])
            actor = title.removeprefix("ray::").split(".")[0] if title.startswith("ray::") else "other"
            used[actor] = used.get(actor, 0.0) + times.user + times.system
    return used


def run_worker(script: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Run ``script --worker TASK`` in a process of its own and return what it gave to ``hand_over``.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    command = [sys.executable, str(script), "--worker", json.dumps(task)]
    environment = {**os.environ, **ONE_THREAD, **_OFFLINE}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_MARK):
            result: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            return result
    raise RuntimeError(f"worker {task} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")


def hand_over(result: dict[str, Any]) -> None:
    """In a worker: give ``result`` to the process that started it."""
    print(_MARK + json.dumps(result), flush=True)


def median(values: Sequence[float], digits: int = 4) -> float:
    """The median, rounded to as many digits as a reader needs."""
    return round(statistics.median(values), digits)


def print_result(result: dict[str, Any]) -> None:
    """The benchmark's last line on stdout: one JSON object."""
    print(json.dumps(result), flush=True)
