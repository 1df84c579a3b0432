"""A whole run at a URI, killed in MCL and in SVR and ended on another machine, against one that nothing happened to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.evaluate.summary import read_summary
from boxmed_ray.model.policy import digest, load_policy
from boxmed_ray.tracking import read_metrics
from tests.integration.test_pipeline import SMALLEST
from tests.stages.reinforce_cases import without_times

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(3600)]

RECIPE: dict[str, Any] = SMALLEST | {
    "model": SMALLEST["model"] | {"warmup_steps": 5},
    "mcl": SMALLEST["mcl"] | {"steps": 24},
    "svr": SMALLEST["svr"] | {"steps": 8, "checkpoint_every": 2, "lr": 3e-3, "rewards": {"length": 1.0, "format": 1.0}},
    "evaluate": {"images": 4, "report_tokens": 8},
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "boxmed_ray.cli", "train", *arguments]


def run(machine: Path, *arguments: str) -> str:
    """Run to the end; what it said on stderr."""
    machine.mkdir(exist_ok=True)
    done = subprocess.run(command(*arguments), cwd=machine, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def damage_newest(store: Path) -> str:
    """Flip a bit in the newest checkpoint at the URI; its name."""
    checkpoints = sorted((store / "stages/svr/checkpoints").glob("step-*"))
    file = checkpoints[-1] / "engine.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return checkpoints[-1].name


def kill_when(reached: Callable[[], bool], machine: Path, *arguments: str) -> None:
    """Start a run and kill it outright."""
    machine.mkdir(exist_ok=True)
    with subprocess.Popen(command(*arguments), cwd=machine, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as job:
        while not reached():
            assert job.poll() is None, job.stderr and job.stderr.read()[-3000:]
            time.sleep(0.02)
        os.kill(job.pid, signal.SIGKILL)
        job.wait()


def weights(run: Path, stage: str) -> str:
    return digest(load_policy(run / "stages" / stage / "model").named_parameters())


def test_a_run_killed_twice_and_ended_elsewhere_is_the_run_that_nothing_happened_to(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    whole = tmp_path / "a" / "runs" / "smallest"
    run(tmp_path / "a", "--recipe", str(recipe))
    uri = f"file://{tmp_path}/store"
    [first, second] = [tmp_path / name / "runs" / "file" / str(tmp_path)[1:] / "store" / "smallest" for name in "bc"]
    store = tmp_path / "store" / "smallest"

    def in_mcl() -> bool:
        metrics = first / "metrics.jsonl"
        return metrics.is_file() and any(line["stage"] == "mcl" and line["step"] >= 5 for line in read_metrics(metrics))

    def in_svr() -> bool:
        return len(list(store.glob("stages/svr/checkpoints/*/manifest.json"))) > 1

    kill_when(in_mcl, tmp_path / "b", "--recipe", str(recipe), "--runs-dir", uri)
    kill_when(in_svr, tmp_path / "b", "--resume", "smallest", "--runs-dir", uri)
    damaged = damage_newest(store)
    told = run(tmp_path / "c", "--resume", "smallest", "--runs-dir", uri)
    assert f"DAMAGED CHECKPOINT, using the one before it: {damaged}" in told
    for folder in (second, store):
        assert without_times(read_metrics(folder / "metrics.jsonl")) == without_times(
            read_metrics(whole / "metrics.jsonl")
        )
        assert weights(folder, "mcl") == weights(whole, "mcl") != weights(whole, "svr")
        assert weights(folder, "svr") == weights(whole, "svr")
        assert read_summary(folder).grounding == read_summary(whole).grounding
        assert (folder / "report.html").is_file()
    checkpoints = CheckpointStore(store / "stages/svr/checkpoints")
    newest, best = checkpoints.latest(), checkpoints.best()
    assert newest is not None
    assert newest.step == RECIPE["svr"]["steps"]
    of_whole = CheckpointStore(whole / "stages/svr/checkpoints").best()
    assert best is not None
    assert of_whole is not None
    assert (best.step, best.state) == (of_whole.step, of_whole.state)
