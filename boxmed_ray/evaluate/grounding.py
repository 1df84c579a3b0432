"""Grounding metrics: how well answers place what they were asked for, per label and overall.

What lives here: the record of one prompt and its aggregation. What does not: generating or reading answers,
and the maths of boxes (rewards/): the metric is the function that SVR rewards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from boxmed_ray.evaluate.summary import GroundingSummary, LabelSummary
from rewards.box import answer_iou, average_precision, soft_f1
from rewards.detection import coco_map
from rewards.sample import BoxT

HIT = 0.5
"""IoU from which a finding counts as found (``share_50``)."""


@dataclass(frozen=True, slots=True)
class GroundingRecord:
    """One grounding prompt, its truth and what came out. Boxes are pixels of a ``width`` x ``height`` image.

    Attributes:
        prompt_id: names the prompt over models, so that they pair.
        study_id: the study it is about.
        label: what the metrics are broken down by, the finding's disease for instance.
        width: pixels.
        height: pixels.
        target: true boxes; empty when the finding is denied.
        greedy: boxes of the greedy answer; empty for none, None when malformed.
        well_formed: the greedy response matches the response form.
        sampled: boxes of each response sampled at temperature 1, read alike; may be empty.
        sampled_well_formed: one for each entry of ``sampled``.
        greedy_text: the greedy response, for people to read.
    """

    prompt_id: str
    study_id: str
    label: str
    width: int
    height: int
    target: tuple[BoxT, ...]
    greedy: tuple[BoxT, ...] | None
    well_formed: bool
    sampled: tuple[tuple[BoxT, ...] | None, ...] = ()
    sampled_well_formed: tuple[bool, ...] = ()
    greedy_text: str = ""

    @property
    def phrase(self) -> str:
        """What was asked for: a prompt is named STUDY/ground/PHRASE."""
        return self.prompt_id.removeprefix(f"{self.study_id}/").partition("/")[2]

    @property
    def iou(self) -> float:
        """IoU of the greedy answer, in [0, 1] (``rewards.box.answer_iou``)."""
        return answer_iou(self.greedy, self.target)

    @property
    def sampled_ious(self) -> list[float]:
        """IoU of each sampled answer."""
        return [answer_iou(boxes, self.target) for boxes in self.sampled]


def summarise(records: Sequence[GroundingRecord]) -> GroundingSummary:
    """Aggregate over prompts; every prompt weighs the same.

    Means over IoU count only prompts with something to find: a model that answers ``none`` to denials would
    otherwise gain on a baseline that cannot. Denials have figures of their own (``none_n``, ``none_accuracy``).
    ``sampled_mean_iou`` is None when nothing was sampled.

    Raises:
        ValueError: no record has a target box.
    """
    found = [record for record in records if record.target]
    denied = [record for record in records if not record.target]
    if not found:
        raise ValueError("no grounding record has a target box; there is nothing to measure")
    by_label: dict[str, list[GroundingRecord]] = defaultdict(list)
    for record in found:
        by_label[record.label].append(record)
    overall = _label_summary(found)
    sampled_form = [ok for record in records for ok in record.sampled_well_formed]
    return GroundingSummary(
        mean_iou=overall.mean_iou,
        sampled_mean_iou=overall.sampled_mean_iou,
        share_50=overall.share_50,
        soft_f1=fmean(soft_f1(record.greedy, record.target) for record in found),
        ap_50=fmean(average_precision(record.greedy, record.target) for record in found),
        coco_map=coco_map(
            [record.greedy for record in found], [record.target for record in found], [r.label for r in found]
        ).mean,
        format_rate=fmean(record.well_formed for record in records),
        sampled_format_rate=fmean(sampled_form) if sampled_form else None,
        n=len(found),
        images=len({record.study_id for record in found}),
        per_label={label: _label_summary(by_label[label]) for label in sorted(by_label)},
        none_n=len(denied),
        none_accuracy=fmean(record.iou for record in denied) if denied else None,
    )


def _label_summary(records: Sequence[GroundingRecord]) -> LabelSummary:
    ious = [record.iou for record in records]
    sampled = [value for record in records for value in record.sampled_ious]
    return LabelSummary(
        mean_iou=fmean(ious),
        n=len(records),
        share_50=fmean(value >= HIT for value in ious),
        sampled_mean_iou=fmean(sampled) if sampled else None,
    )
