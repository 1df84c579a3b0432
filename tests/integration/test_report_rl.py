"""SVR on reports, boxes and both, as a user runs it, and an alarm that stops a run and is gone on from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.events import read_events
from boxmed_ray.tracking import read_metrics
from tests.integration.test_pipeline import SMALLEST

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]

MINE = """
def tenth_of_length(batch):
    return [len(sample.text) / 1000 for sample in batch]
"""


def boxmed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "boxmed_ray.cli", "train", "--runs-dir", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )


def test_an_alarm_stops_a_run_of_mixed_tasks_and_resume_goes_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    recipe = tmp_path / "mixed.yaml"
    svr = {
        "steps": 4, "prompts_per_step": 8, "checkpoint_every": 10, "max_new_tokens": 24,
        "tasks": {"grounding": 1, "report": 2, "joint": 1},
        "task_rewards": {
            "report": {"clinical_lite": 1.0, "length": 0.2, "mine:tenth_of_length": 1.0},
            "joint": {"joint_lite": 1.0, "format": 0.5},
        },
        # a band that no model stays in
        "watch": {"every": 1, "window": 1, "responses": 16, "length_band": [0.9999999, 1.0000001], "on_alarm": "stop"},
    }  # fmt: skip
    mcl = SMALLEST["mcl"] | {"report_share": 0.4, "joint_share": 0.3}  # type: ignore[operator]
    recipe.write_text(yaml.safe_dump(SMALLEST | {"name": "mixed", "mcl": mcl, "svr": svr}))

    stopped = boxmed(tmp_path, "--recipe", str(recipe))
    assert stopped.returncode == 1, stopped.stderr[-3000:]
    assert "Traceback" not in stopped.stderr
    assert re.search(r"ALARM, the reward may be cheated: .*length rule, update", stopped.stderr)
    assert re.search(r"boxmed: stage svr stopped, .*on_alarm = stop.*--resume", stopped.stderr)
    run = tmp_path / "mixed"
    page = (run / "report.html").read_text()
    assert ">ALARM<" in page
    found = CheckpointStore(run / "stages" / "svr" / "checkpoints").latest()
    assert found is not None
    assert 2 <= found.step < 4
    alarms = [event for event in read_events(run / "events.jsonl") if event["event"] == "alarm"]
    assert alarms
    assert all(alarm["rule"] == "length" for alarm in alarms)

    for _ in range(4):  # each task rings once
        gone_on = boxmed(tmp_path, "--resume", "mixed")
        if gone_on.returncode == 0:
            break
        assert gone_on.returncode == 1, gone_on.stderr[-3000:]
    assert gone_on.returncode == 0, gone_on.stderr[-3000:]
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["stage"] == "svr"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    parts = {name for line in lines for name in line}
    assert {"clinical_lite", "mine:tenth_of_length", "joint_lite", "joint_lite.soft_f1", "iou"} <= parts
    assert {"reward_report", "reward_grounding", "reward_joint"} <= parts
    watched = read_metrics(run / "watch.jsonl")
    assert {line["stage"] for line in watched} == {"watch_report", "watch_grounding", "watch_joint"}
    report = next(line for line in watched if line["stage"] == "watch_report")
    assert {"characters", "distinct", "copied", "boxes", "held_out.bleu_2", "held_out.entity_f1"} <= set(report)
    assert "Is the reward cheated?" in (run / "report.html").read_text()
