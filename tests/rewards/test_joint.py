"""The joint reward by hand: two standardised parts."""

from __future__ import annotations

import pytest

from rewards.joint import STANDARDS, Standard
from rewards.metrics import Loaded
from rewards.registry import build
from rewards.sample import Sample

BOX = (0.0, 0.0, 10.0, 10.0)
TRUTH = "There is a nodule in the left lung. No pleural effusion."


def joint(text: str, boxes: tuple[tuple[float, float, float, float], ...] | None) -> Sample:
    return Sample("", boxes, boxes is not None, (BOX,), target_text=TRUTH, report=text)


def test_a_part_at_the_mean_of_its_population_is_0_and_a_deviation_above_is_1() -> None:
    assert Standard(0.5, 0.2).of(0.5) == 0
    assert Standard(0.5, 0.2).of(0.7) == pytest.approx(1)


def test_the_joint_reward_is_the_mean_of_its_standardised_parts() -> None:
    loaded = Loaded({})
    reward = build({"joint_lite": 1.0}, loaded=loaded)
    good, boxless, wordless = reward.score([joint(TRUTH, (BOX,)), joint(TRUTH, None), joint("", (BOX,))])
    assert good.components["joint_lite.clinical_lite"] == pytest.approx(1, abs=1e-5)
    assert good.components["joint_lite.soft_f1"] == 1
    report, boxes = STANDARDS["clinical_lite"], STANDARDS["soft_f1"]
    assert good.value == pytest.approx(
        ((1 - report.mean) / report.scale + (1 - boxes.mean) / boxes.scale) / 2, abs=1e-4
    )
    assert good.value - boxless.value == pytest.approx(1 / boxes.scale / 2)
    assert good.value - wordless.value == pytest.approx(1 / report.scale / 2, abs=1e-4)
    assert boxless.flags == {"malformed", "empty"}
