"""The numbers of an update: phases that add up, and metrics by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest

from boxmed_ray.actors.types import Group, Prompt, Rollout, ScoredGroup
from boxmed_ray.data.prompts import Task
from boxmed_ray.stages.reinforce import Clock, rollout_metrics


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
    assert metrics["group_std"] == pytest.approx(0.5)
    assert metrics["response_tokens"] == 5.0
    assert metrics["truncated"] == 0.5
    assert metrics["malformed"] == 0.25
    assert metrics["iou"] == 0.5
    assert metrics["well_formed"] == metrics["format"] == 1.0
