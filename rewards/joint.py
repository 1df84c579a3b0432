"""The joint reward: a report and its boxes, each on a standard scale, in equal parts.

What lives here: the sum and its constants. What does not: the two parts, which are rewards by themselves.

    joint = ½ · (report − mean) / scale + ½ · (soft-F1 − mean) / scale

The constants bring parts of different spread to one: 0 is what a part gives on average in the population that its
constants are of, and 1 a standard deviation more. They are constants, so that a response's reward does not depend on
its batch. Advantages subtract the mean of a group, hence only the scales matter to GRPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rewards.box import SoftF1Reward
from rewards.composite import Reward
from rewards.sample import Sample, Score


@dataclass(frozen=True, slots=True)
class Standard:
    """Mean and standard deviation of a reward over a population."""

    mean: float
    scale: float

    def of(self, value: float) -> float:
        """The value in standard deviations above the mean."""
        return (value - self.mean) / self.scale


STANDARDS: Final = {
    "clinical_lite": Standard(0.50, 0.19),
    "radcliq_v1": Standard(0.0, 1.0),
    "soft_f1": Standard(0.10, 0.17),
}
"""Name of a part → its constants, of 300 pairs of what is true of two patients: labelled reports of IU X-ray for
clinical-lite, phantoms' boxes for soft-F1. RadCliQ v1 comes standardised: intercept 0, coefficients that sum to 1.
"""


class JointReward:
    """The mean of two standardised rewards; both are among the components, before they are standardised.

    The floor is that of both parts; a response of which only the report can be read has the report's part.

    Args:
        name: of its component.
        report_name: key of ``STANDARDS`` and name of the report's component.
        report: the reward of the report.
    """

    def __init__(self, name: str, report_name: str, report: Reward) -> None:
        self._name, self._report_name, self._report = name, report_name, report
        self._boxes = SoftF1Reward()

    def score(self, batch: Sequence[Sample]) -> list[Score]:
        """One Score per sample."""
        return [
            self._sum(report, boxes)
            for report, boxes in zip(self._report.score(batch), self._boxes.score(batch), strict=True)
        ]

    def _sum(self, report: Score, boxes: Score) -> Score:
        value = (STANDARDS[self._report_name].of(report.value) + STANDARDS["soft_f1"].of(boxes.value)) / 2
        parts = {self._name: value, self._report_name: report.value, "soft_f1": boxes.value}
        return Score(value, parts, report.flags | boxes.flags)
