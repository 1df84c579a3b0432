"""The watch: what is measured when, without holding anything up, and what becomes of an alarm."""

from __future__ import annotations

import json
import logging
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxmed_ray.actors.pool_items import LostError
from boxmed_ray.actors.types import Group, Prompt, Rollout, ScoredGroup
from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.config import RunConfig, SVRConfig
from boxmed_ray.data.prompts import Task
from boxmed_ray.events import EventWriter, read_events
from boxmed_ray.stages.cheating import Watch, choose, watched
from boxmed_ray.stages.reinforce import reinforce
from boxmed_ray.stages.watch import DriftError
from boxmed_ray.tracking import MetricsWriter, read_metrics
from tests.stages.reinforce_cases import Run
from tests.stages.reinforce_cases import config as loop_config
from tests.stages.reinforce_cases import prompts as loop_prompts


class Slow:
    """A pool whose results come when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Group], Future[Any]]] = []

    def submit(self, method: str, groups: list[Group]) -> Future[Any]:
        assert method == "measure"
        self.asked.append((groups, Future()))
        return self.asked[-1][1]


def config(**watch: Any) -> RunConfig:
    settings = {"every": 2, "window": 1, "responses": 3} | watch
    svr: Any = {"watch": settings, "tasks": {"report": 1, "grounding": 1}, "task_rewards": {"report": {"bleu_2": 1}}}
    return RunConfig(svr=SVRConfig(**svr), mcl={"report_share": 0.5})  # type: ignore[arg-type]


def scored(task: Task, number: int, n: int = 2) -> ScoredGroup:
    prompt = Prompt(f"p{number}", task, None, f"s{number}", "s.png", 10, 10)
    rollouts = tuple(Rollout(np.zeros(1, np.int64), np.zeros(1, np.float32), "stop", 0, f"{i}") for i in range(n))
    return ScoredGroup(Group(prompt, rollouts), np.arange(n, dtype=np.float32))


def both(reports: int = 2) -> list[ScoredGroup]:
    return [*(scored(Task.REPORT, i) for i in range(reports)), scored(Task.GROUND, 9)]


def numbers(characters: float) -> dict[str, tuple[float, float]]:
    return {"characters": (characters, 1.0), "held_out.clinical_lite": (0.5, 0.1)}


def test_responses_of_many_prompts_are_taken_before_many_of_one() -> None:
    chosen = choose([scored(Task.REPORT, i, n=3) for i in range(4)], 6)
    assert [len(one.rewards) for one in chosen] == [2, 2, 1, 1]
    assert [len(one.group.rollouts) for one in chosen] == [2, 2, 1, 1]
    assert choose([scored(Task.REPORT, 0, n=3)], 100)[0].rewards.tolist() == [0, 1, 2]
    assert choose([], 5) == []


def test_every_second_update_is_measured_by_task_and_nothing_waits(tmp_path: Path) -> None:
    pool: Any = Slow()
    watch = Watch(config(), pool, EventWriter(None), tmp_path / "watch.jsonl")
    for step in (1, 2, 3):
        watch.look(step, both())
        assert watch.collect() == []
    assert [[group.prompt.task for group in groups] for groups, _ in pool.asked] == [
        [Task.REPORT, Task.REPORT], [Task.GROUND], [Task.REPORT, Task.REPORT], [Task.GROUND],
    ]  # fmt: skip
    assert sum(len(group.rollouts) for group in pool.asked[0][0]) == 3
    for _, future in pool.asked:
        future.set_result(numbers(100))
    watch.collect()
    watch.close()
    lines = read_metrics(tmp_path / "watch.jsonl")
    assert [(line["stage"], line["step"]) for line in lines] == [
        ("watch_report", 1), ("watch_grounding", 1), ("watch_report", 3), ("watch_grounding", 3),
    ]  # fmt: skip
    assert lines[0]["reward"] == pytest.approx(1 / 3)  # of 0 and 1 of the first prompt, 0 of the second
    assert lines[0]["held_out.clinical_lite"] == 0.5


def test_a_task_that_comes_late_is_measured_when_it_comes() -> None:
    pool: Any = Slow()
    watch = Watch(config(every=10), pool, EventWriter(None), None)
    watch.look(1, [scored(Task.REPORT, 0)])
    watch.look(2, both())
    watch.look(3, both())
    assert [groups[0].prompt.task for groups, _ in pool.asked] == [Task.REPORT, Task.GROUND]


def test_an_alarm_is_logged_and_recorded_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool: Any = Slow()
    watch = Watch(config(), pool, EventWriter(tmp_path / "events.jsonl"), None)
    for step, characters in ((1, 100), (3, 40), (5, 40)):
        watch.look(step, both())
        for _, future in pool.asked:
            if not future.done():
                future.set_result(numbers(characters))
    with caplog.at_level(logging.WARNING):
        rung = watch.collect()
    assert len(rung) == 2  # one a task
    assert rung[0].startswith("report prompts, length rule, update 3: characters 100 → 40")
    assert sum("ALARM" in record.message for record in caplog.records) == 2
    events = read_events(tmp_path / "events.jsonl")
    assert [(e["event"], e["task"], e["rule"], e["step"]) for e in events] == [
        ("alarm", "report", "length", 3), ("alarm", "grounding", "length", 3),
    ]  # fmt: skip


def test_a_measurement_that_is_lost_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    pool: Any = Slow()
    watch = Watch(config(), pool, EventWriter(None), None)
    watch.look(1, both())
    pool.asked[0][1].set_exception(LostError("reward", 3, "it died"))
    pool.asked[1][1].set_result(numbers(100))
    assert watch.collect() == []
    assert "update 1 is not measured" in caplog.text
    assert watch.state["report"]["start"] is None
    assert watch.state["grounding"]["start"]["characters"] == (100, 1)


def test_a_checkpoint_has_what_was_measured_of_the_starting_model() -> None:
    pool: Any = Slow()
    watch = Watch(config(), pool, EventWriter(None), None)
    watch.look(1, both())
    for _, future in pool.asked:
        future.set_result(numbers(100))
    state = json.loads(json.dumps(watch.state))
    again = Watch(config(), pool, EventWriter(None), None, 2, state)
    again.look(3, both())
    pool.asked[2][1].set_result(numbers(40))
    assert len(again.collect()) == 1


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_an_alarm_stops_the_run_with_a_checkpoint_where_that_is_asked(tmp_path: Path, action: str) -> None:
    class Shrinking(Slow):
        def submit(self, method: str, groups: list[Group]) -> Future[Any]:
            future = super().submit(method, groups)
            future.set_result({"characters": (100.0 / len(self.asked), 1.0)})
            return future

    settings = loop_config(checkpoint_every=100, watch={"every": 1, "window": 1, "on_alarm": action})
    pool: Any = Shrinking()
    watch = Watch(settings, pool, EventWriter(None), None)
    run = Run(settings)

    def go() -> None:
        with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
            reinforce(
                run.loop, loop_prompts(24), start=0, checkpoints=tmp_path / "checkpoints", writer=writer, watch=watch
            )

    if action == "warn":
        go()
        assert len(run.learner.learned) == 6
        return
    with pytest.raises(
        DriftError, match=r"length rule, update 2: .*0\.50 of the starting model.*step-00000002.*resume"
    ):
        go()
    found = CheckpointStore(tmp_path / "checkpoints").latest()
    assert found is not None
    assert found.step == 2
    assert found.state["watch"]["grounding"]["ringing"] == ["length"]


def test_what_is_loaded_and_not_rewarded_measures() -> None:
    def names(task: Any, weights: dict[str, float], **watch: Any) -> list[str]:
        svr: Any = {"tasks": {task: 1}, "task_rewards": {task: weights}, "watch": watch}
        return watched(RunConfig(svr=svr, mcl={"report_share": 0.5, "joint_share": 0.5})).get(task, [])  # type: ignore[arg-type]

    assert names("grounding", {"iou": 1, "format": 1}) == ["soft_f1", "length"]
    assert names("report", {"entity_f1": 1}) == ["format", "length", "bleu_2", "clinical_lite", "entity_precision"]
    assert names("report", {"clinical-lite": 1}) == ["format", "length", "bleu_2", "entity_f1", "entity_precision"]
    assert names("joint", {"joint_lite": 1}) == ["iou", "format", "length", "bleu_2", "entity_f1", "entity_precision"]
    assert names("report", {"entity_f1": 1}, scorers=["bleu_2", "entity_f1", "iou"]) == ["bleu_2"]
    assert names("report", {"entity-f1": 1}, scorers=["bleu-2", "entity_f1"]) == ["bleu-2"]
    assert names("report", {"entity_f1": 1}, every=0) == []
    assert names("report", {"entity_f1": 1}, scorers=[]) == []
