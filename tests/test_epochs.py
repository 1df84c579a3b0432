"""Epochs become steps by what there is to train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxmed_ray.config import RunConfig
from boxmed_ray.data.study import Box, Finding, Study
from boxmed_ray.epochs import with_steps


def study(number: int, *, boxes: int, report: bool) -> Study:
    findings = tuple(Finding(phrase=f"finding {i}", boxes=(Box(0, 0, 5, 5),)) for i in range(boxes))
    return Study(
        id=str(number), patient_id=str(number), image=Path("x.png"), width=10, height=10,
        report="Clear." if report else None, findings=findings, split="train", source="test",
    )  # fmt: skip


# Five findings with boxes in two studies, three reports; the third has its chains from the words of its report.
STUDIES = [
    study(0, boxes=2, report=True),
    study(1, boxes=3, report=True),
    study(2, boxes=0, report=True),
    study(3, boxes=0, report=False),
]


@pytest.mark.parametrize(("share", "steps"), [(1.0, 5), (0.8, 8), (0.0, 3)])
def test_an_epoch_of_mcl_has_every_example_that_it_can_ask_for(share: float, steps: int) -> None:
    config = RunConfig.model_validate({"mcl": {"epochs": 2, "batch_size": 2, "grounding_share": share}})
    assert with_steps(config, STUDIES).mcl.steps == steps


def test_epochs_of_the_other_stages_round_up() -> None:
    config = RunConfig.model_validate(
        {"svr": {"epochs": 4, "prompts_per_step": 3}, "adapter": {"epochs": 0.5, "batch_size": 8}}
    )
    found = with_steps(config, STUDIES)
    assert (found.svr.steps, found.adapter.steps) == (7, 1)


def test_an_epoch_of_svr_has_every_prompt_of_the_tasks_that_it_asks() -> None:
    svr = {"epochs": 1, "prompts_per_step": 1, "tasks": {"report": 1, "grounding": 2}}
    config = RunConfig.model_validate({"mcl": {"report_share": 0.5}, "svr": svr})
    assert with_steps(config, STUDIES).svr.steps == 3 + 5


def test_without_epochs_nothing_changes() -> None:
    assert with_steps(RunConfig(), STUDIES) == RunConfig()
