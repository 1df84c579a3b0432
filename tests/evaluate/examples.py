"""Made-up records and summaries that several tests share."""

from __future__ import annotations

from boxmed_ray.evaluate.grounding import GroundingRecord
from boxmed_ray.evaluate.summary import DataSummary, Grounding, GroundingSummary, LabelSummary, ReportSummary, Summary
from rewards.sample import BoxT

TARGET: BoxT = (10.0, 10.0, 50.0, 60.0)


def record(
    prompt_id: str = "p",
    *,
    label: str = "Lung Lesion",
    target: tuple[BoxT, ...] = (TARGET,),
    greedy: tuple[BoxT, ...] | None = (TARGET,),
    sampled: tuple[tuple[BoxT, ...] | None, ...] = (),
) -> GroundingRecord:
    """A record of a 100 x 100 image."""
    return GroundingRecord(
        prompt_id=prompt_id,
        study_id=f"study-{prompt_id}",
        label=label,
        width=100,
        height=100,
        target=target,
        greedy=greedy,
        well_formed=greedy is not None,
        sampled=sampled,
        sampled_well_formed=tuple(boxes is not None for boxes in sampled),
    )


def grounding(mean_iou: float, labels: dict[str, float] | None = None) -> GroundingSummary:
    """A grounding summary with little in it."""
    return GroundingSummary(
        mean_iou=mean_iou,
        sampled_mean_iou=mean_iou - 0.1,
        share_50=0.7,
        format_rate=0.99,
        n=500,
        per_label={
            name: LabelSummary(mean_iou=value, n=250, share_50=0.5)
            for name, value in (labels or {"Lung Lesion": mean_iou, "Pneumothorax": mean_iou}).items()
        },
    )


def summary(svr: float = 0.72, p: float | None = 1e-9) -> Summary:
    """A whole summary."""
    return Summary(
        seed=3,
        wall_seconds={"mcl": 150.0, "svr": 240.0, "adapter": 60.0},
        versions={"torch": "2.13.0", "vllm": "0.32.0"},
        data=DataSummary(name="phantom", studies=4608, hash="0123abcd"),
        grounding=Grounding(
            constant_box=grounding(0.31), mcl=grounding(0.66), svr=grounding(svr), adapter_off=grounding(svr)
        ),
        wilcoxon_p=p,
        report=ReportSummary(bleu_4=0.5, rouge_l=0.6, disease_f1=0.8),
        backbone_unchanged=True,
    )
