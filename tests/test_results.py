"""Figures of a finished run that need several of its records."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from boxmed_ray.evaluate.report_page import write_report
from boxmed_ray.results import _grounding, data_wait
from boxmed_ray.tracking import MetricsWriter, print_summary, read_metrics
from tests.evaluate.examples import TARGET, record, summary


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


def test_grounding_stands_beside_two_answers_that_never_see_the_image() -> None:
    records = {"mcl": [record("a", greedy=None)], "adapter_off": [record("a")]}
    found = _grounding(records, [("Lung Lesion", (0.1, 0.1, 0.5, 0.6))], seed=0)
    assert found.svr is None
    assert found.mcl is not None
    assert found.constant_box is not None
    assert found.random_box is not None
    assert (found.mcl.mean_iou, found.constant_box.mean_iou) == (0, pytest.approx(1))
    assert 0 <= found.random_box.mean_iou < 1
    assert record("a").target == (TARGET,)


def test_a_run_on_reports_alone_ends_in_a_summary_and_a_page(tmp_path: Path) -> None:
    nothing = _grounding({"mcl": [], "adapter_off": []}, [], seed=0)
    assert set(dict(nothing).values()) == {None}
    told = summary().model_copy(update={"grounding": nothing, "wilcoxon_p": None})
    page = write_report(tmp_path, told, tmp_path / "metrics.jsonl", [], []).read_text()
    assert "Grounding on held-out images" not in page
    assert "BLEU-4" in page
    print_summary(told, Console(file=io.StringIO()))
