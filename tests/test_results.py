"""Figures of a finished run that need several of its records."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from boxmed_ray.results import data_wait
from boxmed_ray.tracking import MetricsWriter, print_summary, read_metrics
from tests.evaluate.examples import summary


def test_the_wait_for_data_is_a_share_of_the_time_of_all_steps(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write("init", 1, {"loss": 1.0})  # counts no seconds
        writer.write("mcl", 1, {"data_s": 0.5, "seconds": 2.0})
        writer.write("mcl", 2, {"data_s": 0.1, "seconds": 4.0})
        writer.write("svr", 1, {"data_s": 0.2, "step_s": 10.0})
    shares = data_wait(read_metrics(tmp_path / "metrics.jsonl"))
    assert shares == pytest.approx({"mcl": 0.1, "svr": 0.02})


def test_a_run_tells_it_in_its_last_line() -> None:
    out = io.StringIO()
    told = summary().model_copy(update={"data_wait": {"mcl": 0.0123, "svr": 0.004}})
    print_summary(told, Console(file=out, width=200))
    assert "waiting for data: mcl 1.2%, svr 0.4%" in out.getvalue()
