"""Colocated learner ranks and rollout workers meet in pairs, one pair a GPU, on Ray itself with pretended GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from boxmed_ray.config import ResourcesConfig

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    # A process of its own: the session's cluster has no GPUs.
    program = [sys.executable, "-m", "tests.actors.shared_gpus_program"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_each_gpu_has_one_of_each(found: dict[str, Any]) -> None:
    for role in ("rollouts", "learners"):
        assert sorted(number for own in found[role] for number in own) == [0, 1, 2]


def test_a_worker_that_is_replaced_takes_the_gpu_that_became_free(found: dict[str, Any]) -> None:
    assert found["afresh"] == [found["rollouts"][1]]


def test_when_the_block_ends_the_gpus_are_free_again(found: dict[str, Any]) -> None:
    assert len(found["apart"][0]) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colocated": True, "gpus_per_learner": 1, "gpus_per_rollout": 2}, "gpus_per_rollout=1"),
        (
            {"colocated": True, "gpus_per_learner": 1, "gpus_per_rollout": 1, "learner_ranks": 2, "rollout_workers": 3},
            "rollout_workers=2",
        ),
        ({"gpus_per_rollout": 1.5}, "whole number"),
    ],
)
def test_what_gpus_cannot_give_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ResourcesConfig.model_validate(values)
