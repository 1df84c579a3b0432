"""The loop of SVR: its numbers by hand, which prompts it learns, and where it stops and goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxmed_ray.actors.types import Group, Prompt, Rollout, ScoredGroup
from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.data.prompts import Task
from boxmed_ray.events import EventWriter, read_events
from boxmed_ray.stages.ahead import Ahead
from boxmed_ray.stages.clock import Clock
from boxmed_ray.stages.drawing import Prompts
from boxmed_ray.stages.reinforce import reinforce
from boxmed_ray.stages.sampler import Sampler
from boxmed_ray.stages.update_metrics import rollout_metrics
from boxmed_ray.stages.watch import DivergedError
from boxmed_ray.tracking import MetricsWriter, read_metrics
from tests.stages.reinforce_cases import TOKENS, Learner, Run, config, prompts


def scored(rewards: list[float], lengths: list[int], finish: str = "stop") -> ScoredGroup:
    prompt = Prompt("p", Task.GROUND, "There is a nodule.", "s", "s.png", 10, 10)
    rollouts = tuple(
        Rollout(np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.float32), finish, 3, "") for n in lengths
    )
    values = np.array(rewards, dtype=np.float32)
    return ScoredGroup(Group(prompt, rollouts), values, {"iou": values / 2, "format": values}, values == 0)


def test_phases_and_what_is_in_none_of_them_add_up_to_the_step() -> None:
    clock = Clock()
    for name in ("generate", "learn", "generate"):
        with clock.phase(name):
            time.sleep(0.02)
    time.sleep(0.03)
    seconds = clock.seconds()
    assert seconds["generate_s"] == pytest.approx(0.04, abs=0.02)
    assert seconds["other_s"] == pytest.approx(0.03, abs=0.02)
    assert seconds["generate_s"] + seconds["learn_s"] + seconds["other_s"] == pytest.approx(seconds["step_s"])


def test_metrics_of_an_update_by_hand() -> None:
    metrics = rollout_metrics([scored([1, 1], [2, 4]), scored([0, 2], [6, 8], "length")])
    assert metrics["reward"] == 1.0
    assert metrics["flat_groups"] == 0.5  # all responses of the first are worth the same: it teaches nothing
    assert metrics["drawn_groups"] == 2
    assert metrics["group_std"] == pytest.approx(0.5)
    assert metrics["response_tokens"] == 5.0
    assert metrics["truncated"] == 0.5
    assert metrics["malformed"] == 0.25
    assert metrics["unscored"] == 0
    assert metrics["iou"] == 0.5
    assert metrics["well_formed"] == metrics["format"] == 1.0


def go_on(run: Run, folder: Path, *, count: int = 100) -> list[dict[str, Any]]:
    """Run or resume as the stage does; the metrics on record."""
    found = CheckpointStore(folder / "checkpoints").latest()
    start, state = (0, None) if found is None else (found.step, found.state)
    with MetricsWriter.resume(folder / "metrics.jsonl", "svr", start) as writer:
        reinforce(run.loop, prompts(count), start=start, checkpoints=folder / "checkpoints", writer=writer, state=state)
    return read_metrics(folder / "metrics.jsonl")


def third(number: int) -> bool:
    return number % 3 == 0


@pytest.mark.parametrize("stop", [1, 2, 4])
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_resumed_run_learns_the_prompts_of_one_that_was_not_stopped(tmp_path: Path, stop: int, dynamic: bool) -> None:
    whole = Run(config(dynamic_sampling=dynamic), third)
    go_on(whole, tmp_path / "whole")
    first, second = (Run(config(dynamic_sampling=dynamic), third) for _ in range(2))

    def interrupt(identity: str) -> bool:
        # The update after the last checkpoint is lost half-way.
        if len(first.learner.learned) == stop + 1:
            raise RuntimeError(identity)
        return False

    first.learner.bad = interrupt
    with pytest.raises(RuntimeError):
        go_on(first, tmp_path / "parted")
    go_on(second, tmp_path / "parted")
    assert first.learner.learned[:stop] + second.learner.learned == whole.learner.learned
    lost = [identity for _, identity in first.asked].index(second.asked[0][1])
    assert first.asked[:lost] + second.asked == whole.asked  # the same prompts with the same seeds
    numbers = [identity for _, identity in whole.asked]
    assert numbers == [f"p{i}" for i in range(len(numbers))]  # none skipped, none repeated
    assert all(len(ids) == 4 for ids in whole.learner.learned)
    assert (len(numbers) > 24) == dynamic


def test_an_interrupted_run_leaves_its_place(tmp_path: Path) -> None:
    run = Run(config(dynamic_sampling=True, checkpoint_every=100), third)

    def interrupt(_: str) -> bool:
        if len(run.learner.learned) == 3:
            raise KeyboardInterrupt
        return False

    run.learner.bad = interrupt
    with pytest.raises(KeyboardInterrupt):
        go_on(run, tmp_path)
    found = CheckpointStore(tmp_path / "checkpoints").latest()
    assert found is not None
    assert found.step == 2
    # 4 drawn and 2 kept (p1, p2), 4 more and 3 kept; then p8 … p11 with 3 kept and 2 more, of which one is flat
    # … of these two updates; the third has drawn six, p14 … p19, and has not learned them;
    # of the first update's eight groups p0, p3 and p6 are flat, of the second's six p9 and p12; the others give 0 and 1
    assert found.state.pop("watch")["grounding"]["start"] is not None
    assert found.state == {
        "prompts_drawn": 20,
        "prompts_pending": [*range(14, 20)],
        "bad_updates": 0,
        "rewards": pytest.approx([5 / 16, 4 / 12]),
    }


def test_the_checkpoint_of_the_best_smoothed_reward_stays_over_a_resume(tmp_path: Path) -> None:
    """Four prompts an update, of which ever more are flat after the first eight: reward .5, .5, .125, 0, 0, …"""

    def flat(number: int) -> bool:
        return number > 8

    whole = Run(config(reward_window=2), flat)
    lines = go_on(whole, tmp_path / "whole")
    assert [line["reward_smoothed"] for line in lines] == [0.5, 0.5, 0.3125, 0.0625, 0, 0]
    parted = tmp_path / "parted"
    go_on(Run(config(reward_window=2, steps=3), flat), parted)
    # The window goes over the resume: without the rewards before it, the fourth would be 0.
    assert [line["reward_smoothed"] for line in go_on(Run(config(reward_window=2), flat), parted)] == [
        line["reward_smoothed"] for line in lines
    ]
    for folder in (tmp_path / "whole", parted):
        store = CheckpointStore(folder / "checkpoints")
        assert json.loads((store.folder / "best.json").read_text()) == {"checkpoint": "step-00000002", "score": 0.5}
        best, last = store.best(), store.latest()
        assert best is not None
        assert last is not None
        assert (best.step, last.step) == (2, 6)
        assert last.state["rewards"] == [0, 0]


def test_rounds_of_one_update_do_not_share_their_seed() -> None:
    run = Run(config(dynamic_sampling=True), lambda number: number < 4)
    Sampler(run.config, *run.pools, EventWriter(None)).draw(7, Prompts(prompts(20)))()
    seeds = dict.fromkeys(seed for seed, _ in run.asked)
    assert next(iter(seeds)) == 7
    assert len(seeds) == 2


def test_an_update_without_variance_is_skipped_and_on_record(tmp_path: Path) -> None:
    run = Run(config(dynamic_sampling=True, max_draws=2, steps=3), lambda number: number < 8)
    lines = go_on(run, tmp_path)
    assert run.learner.learned == [["p8", "p9", "p10", "p11"], ["p12", "p13", "p14", "p15"]]
    assert [line["drawn_groups"] for line in lines] == [8, 4, 4]
    assert [line["flat_groups"] for line in lines] == [1, 0, 0]
    assert [line["updated"] for line in lines] == [0, 1, 1]
    assert [line["weight_version"] for line in lines] == [0, 1, 2]


def test_every_update_has_the_tokens_of_each_phase(tmp_path: Path) -> None:
    line = go_on(Run(config(dynamic_sampling=True, steps=1), third), tmp_path)[0]
    drawn, learned = line["drawn_groups"] * 2 * TOKENS, 4 * 2 * TOKENS
    assert drawn > learned
    for phase, tokens in (("generate", drawn), ("score", drawn), ("learn", learned), ("push", learned)):
        assert line[f"{phase}_tokens_per_s"] * line[f"{phase}_s"] == pytest.approx(tokens)


def test_updates_that_are_not_finite_stop_the_run_with_prompts_and_checkpoint_named(tmp_path: Path) -> None:
    bad = {"p1", "p9", "p12", "p17"}  # updates 1, 3, 4 and 5
    run = Run(config(checkpoint_every=2), learner=Learner(bad.__contains__))
    with pytest.raises(DivergedError) as error:
        go_on(run, tmp_path)
    assert len(run.learner.learned) == 5
    assert "3 steps in a row (svr.max_bad_updates = 3); prompts: p9, p12, p17;" in str(error.value)
    assert str(tmp_path / "checkpoints" / "step-00000004") in str(error.value)
    state = json.loads((tmp_path / "checkpoints" / "step-00000004" / "state.json").read_text())
    assert state.pop("watch")["grounding"]["start"] is not None
    assert state == {"prompts_drawn": 16, "prompts_pending": [], "bad_updates": 2, "rewards": [0.5] * 4}
    again = Run(config(checkpoint_every=2), learner=Learner(bad.__contains__))
    with pytest.raises(DivergedError, match="prompts: p17;"):
        go_on(again, tmp_path)  # the two before the checkpoint still count
    assert again.learner.learned == [["p16", "p17", "p18", "p19"]]


def test_a_response_near_the_cap_loses_reward(tmp_path: Path) -> None:
    line = go_on(Run(config(steps=1, max_new_tokens=8, overlong_buffer=6)), tmp_path)[0]
    assert line["overlong"] == pytest.approx(-(TOKENS - 2) / 6)
    assert line["reward"] == pytest.approx(0.5 - (TOKENS - 2) / 6)


@pytest.mark.parametrize("stale", [0, 1, 3])
def test_updates_are_drawn_ahead_as_far_as_the_staleness_allows_and_learned_in_their_order(
    tmp_path: Path, stale: int
) -> None:
    run = Run(config(max_staleness=stale), learner=Learner(lambda _: time.sleep(0.02)))
    lines = go_on(run, tmp_path)
    assert run.learner.learned == [[f"p{4 * update + i}" for i in range(4)] for update in range(6)]
    # Sampling is at once here, and learning is not: what is drawn ahead is as old as it may be.
    assert [line["staleness_max"] for line in lines] == [min(update, stale) for update in range(6)]


def test_a_prompt_that_is_given_up_is_listed_and_the_others_of_its_batch_are_learned(tmp_path: Path) -> None:
    run = Run(config(steps=2), poison=frozenset({"p1"}))
    events = EventWriter(tmp_path / "events.jsonl")
    loop = run.loop
    loop.events = events
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        reinforce(loop, prompts(8), start=0, checkpoints=tmp_path / "checkpoints", writer=writer)
    assert run.learner.learned == [["p0", "p2", "p3"], ["p4", "p5", "p6", "p7"]]
    assert [line["lost_groups"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 0]
    (event,) = read_events(tmp_path / "events.jsonl")
    assert (event["event"], event["update"], event["prompts"]) == ("lost", 1, ["p1"])


def test_a_response_older_than_the_staleness_allows_stops_the_run() -> None:
    run = Run(config())
    loop, source = run.loop, Prompts(prompts(20))
    sampler = Sampler(run.config, *run.pools, EventWriter(None))
    old = sampler.draw(1, source)()  # of version 0, and it is kept back until version 1 is out
    with Ahead(lambda index: (lambda: old) if index == 1 else sampler.draw(index, source), 0, 0, 2) as ahead:
        loop.step(0, ahead)
        with pytest.raises(RuntimeError, match=r"1 weight versions old.*allows 0"):
            loop.step(1, ahead)
