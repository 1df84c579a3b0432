"""A private Ray leaves nothing behind, whatever ends the run: no process, no folder, no token on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from boxmed_ray import ray_local

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

PROGRAM = """
import os, sys, time
from boxmed_ray.interrupt import Interrupt, interruptible
from boxmed_ray.ray_local import quiet_environment, ray_session

quiet_environment()
interrupt = Interrupt()
try:
    with interruptible(interrupt), ray_session(num_cpus=1) as folder:
        import ray

        @ray.remote
        class Actor:
            def pid(self):
                return os.getpid()

            def hang(self):
                time.sleep(600)

        actor = Actor.remote()
        print(folder, ray.get(actor.pid.remote()), os.environ["RAY_AUTH_MODE"], flush=True)
        if sys.argv[1] == "hang":
            ray.get(actor.hang.remote())
        if sys.argv[1] == "fail":
            raise ValueError("of the block")
except KeyboardInterrupt:
    sys.exit(interrupt.exit_code)
"""


def _start(tmp_path: Path, how: str) -> tuple[subprocess.Popen[str], Path, list[psutil.Process]]:
    """The program, its folder, and every process of its Ray, once its actor runs."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    env = {name: value for name, value in os.environ.items() if name not in names} | {"HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), how],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline().split()
    assert line, process.communicate()[1]
    folder, actor, mode = line
    assert mode == "token"
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    return process, Path(folder), [*family, *([psutil.Process(int(actor))] if psutil.pid_exists(int(actor)) else [])]


def _all_gone(processes: list[psutil.Process], within_s: float = 20) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_an_interrupt_during_a_call_leaves_nothing(tmp_path: Path, number: signal.Signals, times: int) -> None:
    process, folder, family = _start(tmp_path, "hang")
    assert len(family) >= 3
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.3)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert _all_gone(family)
    assert not folder.exists()
    assert not (tmp_path / ".ray").exists(), "the token was written to disk"


@pytest.mark.slow
def test_even_a_kill_leaves_no_process_and_the_next_run_removes_the_folder(tmp_path: Path) -> None:
    process, folder, family = _start(tmp_path, "hang")
    process.kill()
    process.wait(30)
    assert _all_gone(family, within_s=90), "Ray's agents look for their parent now and then"
    assert folder.exists()
    ray_local._sweep()
    assert not folder.exists()


def test_a_failed_block_keeps_the_logs_and_says_where(tmp_path: Path) -> None:
    process, folder, family = _start(tmp_path, "fail")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "of the block" in errors
    assert str(folder) in errors
    assert _all_gone(family)
    assert folder.exists()
    ray_local._sweep()


def test_values_the_user_has_set_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    ray_local.quiet_environment()
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
