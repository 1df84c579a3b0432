"""Figures of grounding, one sample a prompt, and the answers of baselines that never see the image.

What lives here: which figures there are and over which prompts they go. What does not: the maths of boxes (rewards/),
and the constant box (baselines.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from boxmed_ray.evaluate.coco_resampling import CocoMatches
from boxmed_ray.evaluate.figures import Figure, FigureSet, Rows, Values, mean_figure
from boxmed_ray.evaluate.grounding import HIT, GroundingRecord
from rewards.box import average_precision, soft_f1

_GREEDY = "greedy answer, mean over prompts with a target box"
_SAMPLED = "one answer at the temperature of the config, mean over prompts with a target box"
_COCO = "greedy answers, as COCO counts, every box with confidence 1, mean over labels"


def grounding_columns(records: Sequence[GroundingRecord]) -> dict[str, Values]:
    """Name → value of each prompt; those of boxes are NaN where there is nothing to find."""
    found = np.array([bool(record.target) for record in records])
    iou = np.array([record.iou for record in records])
    columns = {
        "iou": np.where(found, iou, np.nan),
        "iou_sampled": np.array([_mean(record.sampled_ious) if record.target else np.nan for record in records]),
        "iou_50": np.where(found, (iou >= HIT).astype(float), np.nan),
        "soft_f1": np.array([soft_f1(r.greedy, r.target) if r.target else np.nan for r in records]),
        "ap_50": np.array([average_precision(r.greedy, r.target) if r.target else np.nan for r in records]),
        "none_right": np.where(found, np.nan, iou),
        "malformed": np.array([float(not record.well_formed) for record in records]),
        "malformed_sampled": np.array([1 - _mean(record.sampled_well_formed) for record in records]),
    }
    return {name: values.astype(np.float64) for name, values in columns.items()}


def grounding_figures(records: Sequence[GroundingRecord]) -> FigureSet:
    """The figures of a model, or of a baseline, over its answers."""
    columns = grounding_columns(records)
    figures = [
        mean_figure("mean_iou", f"IoU of the {_GREEDY}; several boxes: best one-to-one matching", columns, "iou"),
        mean_figure("mean_iou_sampled", f"IoU of {_SAMPLED}", columns, "iou_sampled"),
        mean_figure("share_50", f"share with IoU of at least {HIT:g}, {_GREEDY}", columns, "iou_50"),
        mean_figure("ap_50", f"AP@.5 of one answer, boxes in the order said, {_GREEDY}", columns, "ap_50"),
        *_coco_figures(records),
        mean_figure("soft_f1", f"2S / (predicted + true) over the Hungarian matching, {_GREEDY}", columns, "soft_f1"),
        mean_figure("none_accuracy", "share of denied findings that are answered none, greedy", columns, "none_right"),
        mean_figure("malformed", "share of greedy responses without the form, all prompts", columns, "malformed", -1),
        mean_figure(
            "malformed_sampled", "share of sampled responses without the form, all prompts", columns,
            "malformed_sampled", -1,
        ),
    ]  # fmt: skip
    return FigureSet([record.study_id for record in records], columns, figures)


def label_ious(records: Sequence[GroundingRecord]) -> dict[str, float]:
    """Label → mean IoU of greedy answers over its prompts with a target box."""
    by_label: dict[str, list[float]] = {}
    for record in records:
        if record.target:
            by_label.setdefault(record.label, []).append(record.iou)
    return {label: float(np.mean(by_label[label])) for label in sorted(by_label)}


def _mean(values: Sequence[float] | Sequence[bool]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _coco_figures(records: Sequence[GroundingRecord]) -> list[Figure]:
    matches = CocoMatches([r.greedy for r in records], [r.target for r in records], [r.label for r in records])
    found = np.array([bool(record.target) for record in records])

    def over(rows: Rows) -> Values:
        return matches.average_precision(rows[found[rows]])

    return [
        Figure("coco_map", f"mAP@[.5:.95], {_COCO}", lambda rows: float(over(rows).mean()), None),
        Figure("coco_map_50", f"mAP@.5, {_COCO}", lambda rows: float(over(rows)[0]), None),
    ]


def baseline_values(baselines: Mapping[str, Sequence[GroundingRecord | None]]) -> dict[str, dict[str, float]]:
    """Baseline → figure → value, over the prompts that it answers; one that answers none is left out."""
    answered = {name: [record for record in records if record is not None] for name, records in baselines.items()}
    return {name: grounding_figures(records).values() for name, records in answered.items() if records}
