"""The whole main job at its smallest: phantoms in, MCL, SVR, adapter, summary and report out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from boxmed_ray.evaluate.evaluation import read_evaluation
from boxmed_ray.evaluate.summary import read_summary
from boxmed_ray.tracking import read_metrics
from tests.cluster.manifests import CLUSTER

pytestmark = [pytest.mark.ray, pytest.mark.vllm]

SMALLEST: dict[str, Any] = {
    "name": "smallest",
    "data": {"kind": "phantom", "train_studies": 64, "test_studies": 12},
    "model": {"hidden_size": 64, "layers": 2, "vision_hidden_size": 64, "vision_layers": 1},
    "mcl": {"steps": 6, "batch_size": 8, "warmup_steps": 1, "checkpoint_every": 2},
    "svr": {"steps": 2, "prompts_per_step": 4, "checkpoint_every": 1, "max_new_tokens": 16},
    "adapter": {"steps": 3, "batch_size": 4, "warmup_steps": 1},
    "evaluate": {"images": 8, "report_tokens": 16},
    "resources": {"train_workers": 1, "learner_ranks": 1, "rollout_workers": 1},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was started as a user starts it, in a process of its own."""
    return _run(tmp_path_factory.mktemp("job"), SMALLEST)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_other_families_run_the_whole_job_too(tmp_path: Path, family: str) -> None:
    model = {**SMALLEST["model"], "family": family, "vision_layers": 2}
    folder = _run(tmp_path, {**SMALLEST, "model": model})
    summary = read_summary(folder)
    assert summary.grounding.svr is not None
    assert summary.backbone_unchanged is True
    # Log-probabilities of vLLM and of the learner agree, after two pushes of weights as well.
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if line["stage"] == "svr"]
    assert all(line["gap_max"] < 1e-3 for line in lines), [line["gap_max"] for line in lines]


def _run(folder: Path, config: dict[str, Any]) -> Path:
    recipe = folder / "smallest.yaml"
    recipe.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "boxmed_ray.cli", "train", "--recipe", str(recipe), "--runs-dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        _, errors = run.communicate(timeout=900)
    assert run.returncode == 0, errors[-3000:]
    # A private Ray's folder carries the driver's number, and so does the command line of each of its processes.
    ours = f"boxmed-ray-{run.pid}-"
    left = [p for p in psutil.process_iter(["cmdline"]) if any(ours in part for part in p.info["cmdline"] or [])]
    assert not left, f"Ray processes survive the run: {left}"
    return folder / "smallest"


def test_the_summary_has_every_figure_and_the_backbone_is_untouched(finished: Path) -> None:
    summary = read_summary(finished)
    assert summary.backbone_unchanged is True
    assert summary.grounding.mcl is not None
    assert summary.grounding.svr is not None
    assert summary.grounding.svr.n == summary.grounding.mcl.n > 0
    assert summary.report is not None
    assert {"mcl", "svr", "adapter"} <= set(summary.wall_seconds)


def test_grounding_with_the_adapter_off_is_that_of_svr_answer_for_answer(finished: Path) -> None:
    def greedy(name: str) -> list[str]:
        lines = (finished / "evaluation" / f"{name}.jsonl").read_text().splitlines()
        return [json.loads(line)["greedy_text"] for line in lines]

    assert greedy("adapter_off") == greedy("svr")


def test_every_update_is_on_record_with_its_phases_and_weight_version(finished: Path) -> None:
    lines = [line for line in read_metrics(finished / "metrics.jsonl") if line["stage"] == "svr"]
    assert [line["step"] for line in lines] == [1, 2]
    assert [line["weight_version"] for line in lines] == [1, 2]
    for line in lines:
        assert all(line[f"{phase}_s"] > 0 for phase in ("generate", "score", "learn", "push"))
        assert line["gap_max"] < 1e-3


def test_what_dashboard_and_alerts_ask_for_is_measured(finished: Path) -> None:
    lines = [line for line in read_metrics(finished / "metrics.jsonl") if line["stage"] == "svr"]
    measured = set(lines[-1]) | {"step", "time_seconds"}  # trackers.RayMetrics adds these
    for file in ("grafana/training.json", "prometheus/alerts.yml"):
        asked = set(re.findall(r"ray_boxmed_(\w+)", (CLUSTER / file).read_text()))
        assert len(asked) > 5
        assert asked <= measured, f"{file}: {asked - measured}"


def test_numbers_are_in_tensorboards_files_and_the_start_is_on_record(finished: Path) -> None:
    assert any((finished / "tensorboard").iterdir())
    (start,) = (json.loads(line) for line in (finished / "provenance.jsonl").read_text().splitlines())
    assert start["data"] == read_summary(finished).data.hash
    assert start["nodes"]


def test_the_report_page_stands_alone(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "<img" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_a_run_name_that_exists_is_refused_before_anything_starts(finished: Path) -> None:
    command = [sys.executable, "-m", "boxmed_ray.cli", "train", "--recipe", str(finished.parent / "smallest.yaml")]
    done = subprocess.run(
        [*command, "--runs-dir", str(finished.parent)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_finished_run_is_evaluated_and_its_figures_are_those_of_its_summary(finished: Path) -> None:
    out = finished.parent / "measured"
    command = [sys.executable, "-m", "boxmed_ray.cli", "evaluate", str(finished), "--out", str(out)]
    done = subprocess.run([*command, "--resamples", "100"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    evaluation, samples = read_evaluation(out)
    summary = read_summary(finished)
    assert summary.grounding.svr is not None
    assert summary.report is not None
    assert evaluation.data_hash == summary.data.hash
    assert evaluation.grounding["mean_iou"].value == pytest.approx(summary.grounding.svr.mean_iou, abs=1e-6)
    assert evaluation.reports["bleu_4"].value == pytest.approx(summary.report.bleu_4, abs=1e-6)
    constant = evaluation.grounding["mean_iou"].baselines["constant_box"]
    assert constant == pytest.approx(summary.grounding.constant_box.mean_iou, abs=1e-6)
    assert len(samples.reports) == summary.report.n
    assert "radgraph" in evaluation.missing or "radgraph" in evaluation.reports
    assert "sacrebleu" in evaluation.reports["bleu_4"].variant
