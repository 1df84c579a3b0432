"""What a run does when something dies: it goes on, or resumes, and its parameters are those of an undisturbed run.

On real Ray, vLLM and DeepSpeed, by the drills of benchmarks/faults.py, each a process of its own.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(900)]
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def faults() -> Any:
    """The benchmark's module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("faults")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def folder(faults: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the case that all drills share."""
    made = tmp_path_factory.mktemp("drills")
    faults.prepare(made)
    return made


@pytest.fixture(scope="module")
def alone(faults: Any, folder: Path) -> Any:
    """The run that nothing was done to."""
    result = faults.perform(folder, "undisturbed")
    assert result.survived
    assert result.lost == []
    norms = [line["grad_norm"] for line in result.lines]
    assert len(norms) == 6
    assert min(norms) > 0  # every update changes the parameters, so that equal ones mean something
    return result


def test_a_rollout_worker_killed_while_it_generates_changes_nothing(faults: Any, folder: Path, alone: Any) -> None:
    result = faults.perform(folder, "rollout_killed")
    assert (result.survived, result.lost) == (True, [])
    assert result.lines == alone.lines
    assert result.digest == alone.digest
    assert any("rollout-1 lost with" in event for event in result.events)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("drill", "said"),
    [
        ("engine_hangs", "no answer within 20 s"),
        ("reward_killed", "reward-1 lost with"),
        ("learner_killed", "lost; starting it afresh"),
        ("node_removed", "rollout-1 lost with"),
        ("object_store_full", ""),
        ("driver_killed", ""),
    ],
)
def test_the_run_goes_on_and_its_parameters_are_those_of_an_undisturbed_one(
    faults: Any, folder: Path, alone: Any, drill: str, said: str
) -> None:
    result = faults.perform(folder, drill)
    assert (result.survived, result.lost) == (True, [])
    assert result.lines == alone.lines  # no update twice, none left out, all from the same groups
    assert result.digest == alone.digest
    assert not said or any(said in event for event in result.events)


@pytest.mark.slow
def test_a_sample_that_kills_every_engine_is_given_up_and_listed_and_no_other_is(faults: Any, folder: Path) -> None:
    result = faults.perform(folder, "poisoned_sample")
    case = pickle.loads((folder / "case.pkl").read_bytes())
    assert result.survived
    assert result.lost == [next(prompt.name for prompt in case.prompts if prompt.id == case.poison)]
    assert [line["lost_groups"] for line in result.lines] == [0, 0, 1, 0, 0, 0]
    assert [line["drawn_groups"] for line in result.lines] == [4, 4, 3, 4, 4, 4]
