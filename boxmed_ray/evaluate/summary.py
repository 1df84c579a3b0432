"""summary.json of a run: its keys, checked when it is written and when it is read.

What lives here: the schema, reading, writing and the verdict in words. What does not: computing any figure.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from boxmed_ray.config import Share
from boxmed_ray.whole_file import write_whole

FILE = "summary.json"


class _Section(BaseModel):
    """Required keys are fixed; a later version may add others."""

    model_config = ConfigDict(extra="allow", frozen=True)


class LabelSummary(_Section):
    """Grounding of one label."""

    mean_iou: Share = Field(description="Mean IoU of greedy answers.")
    n: int = Field(ge=0, description="Prompts.")
    share_50: Share | None = Field(None, description="Share of prompts with IoU of at least .5.")
    sampled_mean_iou: Share | None = Field(None, description="Mean IoU of answers sampled at temperature 1.")


class GroundingSummary(_Section):
    """Grounding of one model, or of the constant box."""

    mean_iou: Share = Field(description="Mean IoU of greedy answers over prompts with a target box.")
    sampled_mean_iou: Share | None = Field(description="The same at temperature 1; None when nothing was sampled.")
    share_50: Share = Field(description="Share of prompts with greedy IoU of at least .5.")
    format_rate: Share = Field(description="Share of greedy responses that match the response form.")
    n: int = Field(ge=1, description="Prompts with a target box.")
    per_label: dict[str, LabelSummary]
    soft_f1: Share | None = Field(None, description="Mean soft-F1 of greedy answers.")
    ap_50: Share | None = Field(None, description="Mean AP at IoU .5 of greedy answers, as RadVLM reports it.")
    coco_map: Share | None = Field(None, description="COCO's mAP at IoU .5 to .95 of greedy answers, over labels.")
    sampled_format_rate: Share | None = Field(None, description="Share of sampled responses that match the form.")
    images: int | None = Field(None, ge=1, description="Distinct images among the prompts.")
    none_n: int = Field(0, ge=0, description="Prompts about a denied finding.")
    none_accuracy: Share | None = Field(None, description="Share of those answered none.")


class Grounding(_Section):
    """Grounding of two answers that never see the image, and after each stage.

    A stage that did not run is None; so is everything where no held-out image has a box.
    """

    constant_box: GroundingSummary | None
    random_box: GroundingSummary | None = None
    mcl: GroundingSummary | None
    svr: GroundingSummary | None
    adapter_off: GroundingSummary | None


class DiseaseScore(_Section):
    """Positive-class scores of one disease in generated reports."""

    f1: Share
    precision: Share
    recall: Share
    n: int = Field(ge=0, description="References that assert it.")


class ReportSummary(_Section):
    """Text metrics of generated reports."""

    bleu_4: Share = Field(description="Corpus BLEU-4, no smoothing.")
    rouge_l: Share = Field(description="Mean ROUGE-L F-measure.")
    disease_f1: Share = Field(description="Positive-class F1, macro over diseases.")
    disease_f1_per_label: dict[str, DiseaseScore] = Field(default_factory=dict)
    n: int | None = Field(None, ge=1, description="Reports.")
    distinct: int | None = Field(None, ge=1, description="Distinct generated reports.")


class DataSummary(_Section):
    """What the run was trained and measured on."""

    name: str
    studies: int = Field(ge=1)
    hash: str = Field(min_length=1, description="Digest of the manifest.")


class Summary(_Section):
    """The whole of summary.json (keys as machines read them)."""

    seed: int
    wall_seconds: dict[str, float] = Field(description="Stage → seconds.")
    data_wait: dict[str, Share] = Field(
        default_factory=dict, description="Stage → share of its steps' time in which the learner waited for data."
    )
    versions: dict[str, str] = Field(description="Package → version.")
    data: DataSummary
    grounding: Grounding
    wilcoxon_p: Share | None = Field(description="One-tailed, SVR above MCL, greedy, paired per prompt.")
    report: ReportSummary | None
    backbone_unchanged: bool | None = Field(description="By digest of every parameter, over the adapter stage.")


def write_summary(folder: Path, summary: Summary) -> Path:
    """Write ``folder``/summary.json whole or not at all, and return its path."""
    return write_whole(folder / FILE, summary.model_dump_json(indent=2) + "\n")


def read_summary(folder: Path) -> Summary:
    """Read and check ``folder``/summary.json; pydantic's ValidationError names what is wrong."""
    return Summary.model_validate_json((folder / FILE).read_text())


def labels_below_baseline(summary: Summary, stage: str = "svr") -> list[str]:
    """Labels on which a stage's greedy mean IoU is not above the constant box's."""
    model: GroundingSummary | None = getattr(summary.grounding, stage)
    if model is None:
        return []
    constant = summary.grounding.constant_box.per_label if summary.grounding.constant_box else {}
    return [
        label
        for label, score in model.per_label.items()
        if label in constant and score.mean_iou <= constant[label].mean_iou
    ]
