"""Metrics that survive a kill and a resume; progress on and off a terminal."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from boxmed_ray.tracking import MetricsWriter, Progress, follow_metrics, print_summary, read_metrics
from tests.evaluate.examples import summary


def steps(path: Path) -> list[tuple[str, int]]:
    return [(line["stage"], line["step"]) for line in read_metrics(path)]


def filled(path: Path) -> Path:
    with MetricsWriter(path) as writer:
        for stage in ("mcl", "svr"):
            for step in range(1, 5):
                writer.write(stage, step, {"loss": step / 10}, weight_version=step)
    return path


def test_lines_carry_stage_step_version_time_and_values(tmp_path: Path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write("svr", 1, {"loss": torch.tensor(0.5), "iou": np.float32(0.25), "n": 3}, weight_version=7)
        [line] = read_metrics(path)
    assert line.pop("time") == pytest.approx(path.stat().st_mtime, abs=60)
    assert line == {"stage": "svr", "step": 1, "weight_version": 7, "loss": 0.5, "iou": 0.25, "n": 3}


def test_not_a_number_is_written_as_null(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    MetricsWriter(path).write("svr", 1, {"kl": math.nan, "loss": math.inf})
    line = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (line["kl"], line["loss"]) == (None, None)


def test_resume_cuts_off_what_lies_beyond_the_resumed_step(tmp_path: Path):
    path = filled(tmp_path / "metrics.jsonl")
    with MetricsWriter.resume(path, "svr", 2) as writer:
        writer.write("svr", 3, {})
    assert steps(path) == [("mcl", 1), ("mcl", 2), ("mcl", 3), ("mcl", 4), ("svr", 1), ("svr", 2), ("svr", 3)]


def test_resume_of_an_earlier_stage_cuts_off_later_stages_too(tmp_path: Path):
    path = filled(tmp_path / "metrics.jsonl")
    MetricsWriter.resume(path, "mcl", 2).close()
    assert steps(path) == [("mcl", 1), ("mcl", 2)]


def test_resume_drops_a_half_written_line_and_works_without_a_file(tmp_path: Path):
    path = filled(tmp_path / "metrics.jsonl")
    with path.open("a") as file:
        file.write('{"stage": "svr", "st')
    assert len(read_metrics(path)) == 8
    with MetricsWriter.resume(path, "svr", 4) as writer:
        writer.write("svr", 5, {})
    assert steps(path)[-2:] == [("svr", 4), ("svr", 5)]
    MetricsWriter.resume(tmp_path / "other.jsonl", "svr", 4).close()


def test_off_a_terminal_progress_is_a_plain_line_now_and_then():
    out = io.StringIO()
    with Progress("svr", 10, console=Console(file=out, width=200), every=4) as progress:
        for step in range(1, 11):
            progress.update(step, {"reward": 1.25, "iou": 0.5, "tokens_per_s": 1234.5, "lr": 1e-4, "loss": None})
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "4/10", "8/10", "10/10"]
    assert "reward 1.250" in lines[0]
    assert "IoU 0.500" in lines[0]
    assert "left" in lines[0]
    assert "left" not in lines[-1]
    assert "\x1b" not in out.getvalue()


def test_on_a_terminal_progress_is_a_bar():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with Progress("svr", 10, start=4, console=console) as progress:
        progress.update(5, {"reward": 1.25})
    assert "5/10" in out.getvalue()
    assert "reward 1.250" in out.getvalue()


def test_following_a_file_shows_what_another_process_writes(tmp_path: Path):
    out = io.StringIO()
    path = filled(tmp_path / "metrics.jsonl")
    progress = Progress("adapter", 2, console=Console(file=out, width=200), every=1)
    with follow_metrics(path, "adapter", progress), MetricsWriter(path) as writer:
        for step in (1, 2):
            writer.write("adapter", step, {"loss": 0.125})
        writer.write("other", 1, {})
    assert [line.split()[:4] for line in out.getvalue().splitlines()] == [
        ["adapter", "1/2", "loss", "0.125"],
        ["adapter", "2/2", "loss", "0.125"],
    ]


def test_final_table_has_every_stage_and_fact():
    out = io.StringIO()
    print_summary(summary(), Console(file=out, width=100))
    for word in ("constant box", "adapter off", "0.720", "p = 1e-09", "BLEU-4 0.500", "backbone unchanged", "7.5 min"):
        assert word in out.getvalue()
