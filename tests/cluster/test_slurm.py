"""The Slurm script, run with stand-ins for Slurm's commands and for ours: what it starts, and what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.manifests import CLUSTER

SCRIPT = CLUSTER / "slurm" / "train.sbatch"

# srun: its own options go, the command stays, on this machine.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >> "$LOG"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
if [[ $1 == show ]]; then printf 'n1\\nn2\\nn3\\n'; else echo "scontrol $*" >> "$LOG"; fi
"""
RAY = """#!/usr/bin/env bash
echo "ray $* token=${#RAY_AUTH_TOKEN} mode=$RAY_AUTH_MODE" >> "$LOG"
trap 'echo "ray stopped" >> "$LOG"; exit 0' TERM
while true; do sleep 0.1; done
"""
PYTHON = """#!/usr/bin/env bash
grep -c '^ray start' "$LOG" | sed 's/2/3/'
"""
BOXMED = """#!/usr/bin/env bash
echo "boxmed $* at $RAY_ADDRESS in $BOXMED_RUNS_DIR" >> "$LOG"
trap 'echo "checkpoint" >> "$LOG"; exit 143' TERM
for _ in $(seq ${SECONDS_TO_RUN:-0}0); do sleep 0.1; done
exit ${CODE:-0}
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "ray": RAY, "python": PYTHON, "boxmed": BOXMED}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "BOXMED": str(tmp_path), "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NODELIST": "n[1-3]", "BOXMED_RUNS_DIR": "/runs",
    }  # fmt: skip


def start(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments], env=env, text=True, stderr=subprocess.PIPE, start_new_session=True
    )


def test_a_head_and_workers_are_started_then_the_run_and_all_of_it_ends(env: dict[str, str]) -> None:
    done = start(env, "--recipe", "radvlm-qwen3-vl-8b", "--name", "first")
    assert done.wait(60) == 0, done.stderr.read() if done.stderr else ""
    log = Path(env["LOG"]).read_text().splitlines()
    port = 20000 + 12345
    head, workers = (line for line in log if line.startswith("ray start"))
    assert "--head --node-ip-address=" in head
    assert f"--port={port}" in head
    assert "--address=" in workers
    assert "token=64 mode=token" in head
    assert "token=64 mode=token" in workers
    assert any(line.startswith("srun --nodes=2 --ntasks=2") and "--nodelist=n2,n3" in line for line in log)
    (run,) = (line for line in log if line.startswith("boxmed"))
    assert run.startswith("boxmed train --again --recipe radvlm-qwen3-vl-8b --name first at ")
    assert run.endswith(f":{port} in /runs")
    assert log.count("ray stopped") == 2
    assert not any("requeue" in line for line in log)


def test_the_runs_exit_code_is_the_jobs(env: dict[str, str]) -> None:
    done = start(env | {"CODE": "2"})
    assert done.wait(60) == 2


def test_slurms_warning_leaves_a_checkpoint_and_queues_the_job_again(env: dict[str, str]) -> None:
    job = start(env | {"SECONDS_TO_RUN": "60"})
    log = Path(env["LOG"])
    deadline = time.monotonic() + 60
    while "boxmed train" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    job.send_signal(signal.SIGTERM)  # --signal=B: reaches the batch shell alone
    assert job.wait(60) == 143
    lines = log.read_text().splitlines()
    assert "checkpoint" in lines
    assert "scontrol requeue 12345" in lines
    assert lines.count("ray stopped") == 2
