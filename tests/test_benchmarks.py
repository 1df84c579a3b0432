"""Benchmarks run as the documentation says and print what machines read; their figures are not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
COMMON = {"name", "versions", "threads", "repeats", "peer"}
SHAPE = {"name", "ours_s", "trl_s", "ratio_trl", "phases_s", "unaccounted_share"}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_step_prints_the_fixed_keys_as_its_last_line() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "step.py"), "--quick"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= COMMON
    assert result["threads"] == 1
    assert [shape["name"] for shape in result["shapes"]] == ["demo", "real"]
    for shape in result["shapes"]:
        assert set(shape) >= SHAPE
        assert set(shape["phases_s"]) == {"generate", "score", "learn", "push"}
        assert sum(shape["phases_s"].values()) <= shape["ours_s"] * 1.5
        assert shape["ratio_trl"] > 0
        assert 0 <= shape["unaccounted_share"] < 1


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_weight_push_prints_the_fixed_keys_as_its_last_line() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "weight_push.py"), "--quick"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= COMMON | {"bytes", "memcpy_gbps", "ratio_torch_put"}
    assert [workers["count"] for workers in result["workers"]] == [1, 2, 4]
    for workers in result["workers"]:
        assert set(workers) == {"count", "gather_s", "transport_s", "reload_s", "transport_share_of_memcpy"}
        share = result["bytes"] / 1e9 / workers["transport_s"] / result["memcpy_gbps"]
        assert workers["transport_share_of_memcpy"] == pytest.approx(share, rel=0.02, abs=0.002)
    assert result["workers"][0]["reload_s"] > 0


@pytest.mark.timeout(300)
def test_pool_scale_prints_the_fixed_keys_as_its_last_line() -> None:
    command = [sys.executable, str(BENCHMARKS / "pool_scale.py"), "--quick", "--workers", "4", "16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= COMMON
    assert [run["count"] for run in result["workers"]] == [4, 16]
    for run in [*result["workers"], *result["others"]]:
        assert 0 < run["sequences"] <= run["slots"] <= run["utilisation"] <= 1
        assert run["driver_ms_per_group"] > 0
        assert set(run["queue_groups"]) == {"mean", "max"}
    assert {run["staleness"] for run in result["workers"]} == {1}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rewards_prints_the_fixed_keys_as_its_last_line() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "rewards.py"), "--quick"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= COMMON
    lines = {line["name"]: line for line in result["scorers"]}
    assert {"iou", "soft_f1", "bleu_2", "bertscore", "chexbert", "radgraph", "radcliq_v1", "clinical_lite"} <= set(
        lines
    )
    for line in lines.values():
        assert set(line) >= {"name", "pairs_per_s_cold", "pairs_per_s_warm", "peer", "ratio_peer"}
        assert line["pairs_per_s_cold"] > 0
        assert (line["peer"] is None) == (line["ratio_peer"] is None)
    # The package's padding moves a pair by 1e-4 now and then, by what else is in its batch.
    for name, close in (("bleu_2", 1e-9), ("soft_f1", 1e-9), ("bertscore_minilm", 1e-3)):
        assert lines[name]["max_abs_diff"] < close


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_data_build_prints_the_fixed_keys_as_its_last_line(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "data_build.py"), "--quick", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= COMMON
    assert result["studies"] == 512
    assert result["studies_per_s"] == pytest.approx(512 / result["seconds"], rel=0.01)
    assert result["restart"]["studies_done"] >= 256
    assert result["restart"]["studies_found"] >= result["restart"]["studies_done"]
    assert result["peak_mb"] > max(part for part in result["driver_mb"] if part)
    assert not list(tmp_path.iterdir())
