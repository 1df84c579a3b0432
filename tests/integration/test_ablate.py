"""An ablation as a user runs it: interrupted, gone on with, its stages shared, its tables written."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(3600)]

TABLES = ("4", "5", "adapters")


def command(out: Path) -> list[str]:
    tables = [part for table in TABLES for part in ("--table", table)]
    return [
        *(sys.executable, "-m", "boxmed_ray.cli", "ablate", "--recipe", "phantom-cpu", "--quick", *tables),
        *("--out", str(out), "--jobs", "2", "--resamples", "100"),
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ablation that was interrupted once, while its first run trained."""
    out = tmp_path_factory.mktemp("ablate") / "out"
    with subprocess.Popen(command(out), stderr=subprocess.PIPE, text=True) as first:
        end = time.monotonic() + 600
        while not (out / "runs" / "full-s0" / "stages" / "init" / "done.json").is_file():
            assert time.monotonic() < end
            assert first.poll() is None
            time.sleep(0.5)
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=600)
    assert first.returncode == 130, said
    assert "the same command goes on" in said
    done = subprocess.run(command(out), capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_every_table_has_its_rows_and_its_reference_last(finished: Path) -> None:
    rows = {table: (finished / f"table-{table}.md").read_text().splitlines()[2:] for table in TABLES}
    assert [len(rows[table]) for table in TABLES] == [2 + 4, 2 + 5, 2 + 6]
    assert all(row.startswith(("| constant box", "| random box")) for table in TABLES for row in rows[table][:2])
    assert [rows[table][-1].split(" | ")[0].strip("| ") for table in TABLES] == ["BoxMed-RL", "adapter", "adapter off"]
    for table in TABLES:
        cells = list(csv.DictReader((finished / f"table-{table}.csv").open()))
        assert {"BLEU-4", "CheXpert F1", "mean IoU", "chain F1"} <= {cell["figure"] for cell in cells}


def test_what_variants_share_was_trained_once(finished: Path) -> None:
    def model(run: str, stage: str) -> int:
        return (finished / "runs" / f"{run}-s0" / "stages" / stage / "model" / "model.safetensors").stat().st_ino

    assert len({model(run, "svr") for run in ("full", "vision", "projector-lora", "rank-4", "full-tuning")}) == 1
    assert len({model(run, "init") for run in ("full", "no-mcl", "no-svr", "no-mcl-svr")}) == 1
    assert model("no-svr", "mcl") == model("full", "mcl")
    assert model("no-mcl", "svr") != model("full", "svr")


def test_runs_that_tune_more_than_an_adapter_leave_a_whole_model(finished: Path) -> None:
    for run, name in (("vision", "model"), ("vision-lora", "model"), ("full-tuning", "model"), ("rank-4", "adapter")):
        assert [f.name for f in (finished / "runs" / f"{run}-s0" / "stages" / "adapter").iterdir() if f.is_dir()
                and f.name in ("model", "adapter")] == [name]  # fmt: skip


def test_a_finished_ablation_prints_its_tables_and_starts_nothing(finished: Path) -> None:
    again = subprocess.run(command(finished), capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0
    assert "BoxMed-RL" in again.stdout
    assert again.stderr.strip() == ""
