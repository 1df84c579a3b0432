"""Trackers are told what metrics.jsonl says, once, whatever is resumed and whoever fails."""

from __future__ import annotations

import json
import struct
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from boxmed_ray import trackers
from boxmed_ray.config import ConfigError, RunConfig
from boxmed_ray.trackers import TENSORBOARD, check_trackers, tracked
from boxmed_ray.tracking import FILE, MetricsWriter


def config(*names: str, prometheus: bool = False) -> RunConfig:
    return RunConfig.model_validate({"name": "first", "tracking": {"to": list(names), "prometheus": prometheus}})


def write(folder: Path, steps: range, stage: str = "svr") -> None:
    with MetricsWriter(folder / FILE) as writer:
        for step in steps:
            writer.write(stage, step, {"reward": step / 10, "iou": 0.5}, weight_version=step)


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar in TensorBoard's files, read by the form of TFRecord."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])  # after the length and its checksum
            found += [(each.tag, event.step, round(each.simple_value, 4)) for each in event.summary.value]
            at += 12 + length + 4
    return found


def test_tensorboard_has_a_scalar_for_every_number(tmp_path: Path) -> None:
    with tracked(config("tensorboard"), tmp_path):
        write(tmp_path, range(1, 3))
    assert scalars(tmp_path / TENSORBOARD) == [
        ("svr/reward", 1, 0.1), ("svr/iou", 1, 0.5), ("svr/reward", 2, 0.2), ("svr/iou", 2, 0.5)
    ]  # fmt: skip


def test_what_a_resumed_run_does_again_is_told_once(tmp_path: Path) -> None:
    with tracked(config("tensorboard"), tmp_path):
        write(tmp_path, range(1, 5))
    MetricsWriter.resume(tmp_path / FILE, "svr", 2).close()
    with tracked(config("tensorboard"), tmp_path):
        write(tmp_path, range(3, 7))
    rewards = [step for tag, step, _ in scalars(tmp_path / TENSORBOARD) if tag == "svr/reward"]
    assert rewards == [1, 2, 3, 4, 5, 6]


class Failing:
    name = "failing"

    def __init__(self, _: object) -> None:
        self.calls = 0

    def log(self, stage: str, step: int, values: Mapping[str, float], seconds: float) -> None:
        raise ConnectionError("no such host")

    def close(self) -> None:
        raise AssertionError("was left out")


def test_a_tracker_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "RayMetrics", Failing)
    with tracked(config("tensorboard", prometheus=True), tmp_path):
        write(tmp_path, range(1, 3))
    assert "tracker failing failed and is left out" in caplog.text
    assert len(scalars(tmp_path / TENSORBOARD)) == 4


def test_a_missing_package_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="boxmed-rl\\[tracking\\]"):
        check_trackers(config("wandb"))


def test_mlflow_has_the_config_and_the_numbers_and_a_resumed_run_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not here; uv pip install '.[tracking]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for steps in (range(1, 3), range(3, 5)):
        with tracked(config("mlflow"), tmp_path):
            write(tmp_path, steps)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("boxmed")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "first"
    assert run.data.params["svr.group_size"] == "8"
    history = client.get_metric_history(run.info.run_id, "svr/reward")
    assert [(each.step, each.value) for each in history] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]


def test_wandb_is_told_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not here; uv pip install '.[tracking]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    with tracked(config("wandb"), tmp_path):
        write(tmp_path, range(1, 4))
        write(tmp_path, range(1, 2), stage="adapter")  # begins at 1 again
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    text = record.read_bytes()
    assert text.count(b"svr/reward") >= 3
    assert b"adapter/iou" in text
    assert json.loads((tmp_path / "tracked.json").read_text())["wandb"]["steps"] == {"svr": 3, "adapter": 1}


@pytest.mark.ray
def test_prometheus_finds_the_numbers_at_rays_own_endpoint(tmp_path: Path, ray_cluster: Any) -> None:
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    with tracked(config(prometheus=True), tmp_path):
        write(tmp_path, range(1, 4))
        deadline = time.monotonic() + 90
        while True:
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
            ours = [line for line in page.splitlines() if line.startswith("ray_boxmed_reward{")]
            if ours or time.monotonic() > deadline:
                break
            time.sleep(1)
    assert ours, [line for line in page.splitlines() if "boxmed" in line][:5]
    assert ours[0].endswith(" 0.3")
    assert 'run="first"' in ours[0]
    assert 'stage="svr"' in ours[0]
