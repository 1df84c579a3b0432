"""The folder of an evaluation: evaluation.json with the figures, and a CSV for each kind of samples.

What lives here: its schema, reading and writing. What does not: any figure, and asking a model (stages/evaluation.py).

The CSVs hold all that figures are computed from, so that a comparison computes both sides anew by one version of the
code; of scorers with weights they hold the scores.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from boxmed_ray.config import ConfigError
from boxmed_ray.evaluate.concept_figures import ConceptRecord, concept_figures
from boxmed_ray.evaluate.figures import FigureSet, Values, percentile_interval, study_resamples
from boxmed_ray.evaluate.grounding import GroundingRecord
from boxmed_ray.evaluate.grounding_figures import grounding_figures
from boxmed_ray.evaluate.label_figures import label_figures
from boxmed_ray.evaluate.meteor_java import NAME as METEOR_15
from boxmed_ray.evaluate.meteor_java import meteor_figure
from boxmed_ray.evaluate.report_figures import SCORES, score_figures, score_kind, text_figures
from boxmed_ray.whole_file import write_whole
from rewards.categories import Status
from rewards.sample import BoxT
from rewards.text.labels import label

FILE: Final = "evaluation.json"
GROUNDING, CONCEPTS, REPORTS = "grounding.csv", "concepts.csv", "reports.csv"
RULES, CHEXBERT = "labels by the rules of rewards/text/labels.py", "labels by CheXbert"
_CELL = 1 << 24
"""Characters of a cell at most: a report that never ended is one."""
Baselines = Mapping[str, Sequence[GroundingRecord | None]]
"""Baseline → its answer to each prompt; None where it has none."""


class FigureValue(BaseModel):
    """One number of evaluation.json."""

    model_config = ConfigDict(frozen=True)

    value: float | None = Field(description="None where it is not defined, such as F1 where nothing is asserted.")
    low: float | None = Field(description="Lower bound of the 95 % bootstrap interval, by study.")
    high: float | None
    n: int = Field(description="Samples that it is over.")
    better: str = Field(description="more or less.")
    variant: str = Field(description="Tokenisation, pooling, decoding.")
    baselines: dict[str, float] = Field(default_factory=dict, description="Of models that never see the image.")


class Evaluation(BaseModel):
    """The whole of evaluation.json."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    adapter: str | None = Field(description="Reports were written with it.")
    adapter_for: Literal["reports", "all"] = Field(
        "reports",
        description="reports: boxes and reasoning were asked of the backbone alone; all: with the adapter too.",
    )
    data: str = Field(description="Kind of data set.")
    data_hash: str = Field(description="Digest of the whole data set.")
    seed: int
    resamples: int
    versions: dict[str, str]
    grounding: dict[str, FigureValue]
    concepts: dict[str, FigureValue] = Field(default_factory=dict, description="Of reasoning.")
    reports: dict[str, FigureValue]
    missing: dict[str, str] = Field(description="Figures that are not there → why, and the remedy.")
    readers: str = Field(
        "", description="The images over which readers stand beside the figures of grounding; empty: none has several."
    )


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """One generated report.

    Attributes:
        study_id: the study.
        reference: its own report.
        generated: the model's.
        scores: name, of a kind in SCORES → value; absent where this report has none.
        meteor: counts of METEOR's program, where it was ready.
        chexbert: CheXbert's labels of reference and generated report, where it was ready.
    """

    study_id: str
    reference: str
    generated: str
    scores: Mapping[str, float] = field(default_factory=dict)
    chexbert: tuple[Mapping[str, Status], Mapping[str, Status]] | None = None
    meteor: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """All samples of an evaluation.

    Attributes:
        grounding: prompts and answers.
        reports: generated reports.
        digests: sample → digest of image, question and truth; equal ones compare.
        images: study → path of its image, for pages that show it.
        concepts: reasoning.
    """

    grounding: Sequence[GroundingRecord]
    reports: Sequence[ReportRecord]
    digests: Mapping[str, str]
    images: Mapping[str, str] = field(default_factory=dict)
    concepts: Sequence[ConceptRecord] = ()


def figures_of(samples: Samples) -> dict[str, FigureSet]:
    """``grounding``, ``concepts`` and ``reports`` → their figures; a kind without samples is absent."""
    found = {}
    if samples.grounding:
        found["grounding"] = grounding_figures(samples.grounding)
    if samples.concepts:
        found["concepts"] = concept_figures(samples.concepts)
    if samples.reports:
        found["reports"] = _report_figures(samples.reports)
    return found


def _report_figures(reports: Sequence[ReportRecord]) -> FigureSet:
    studies = [report.study_id for report in reports]
    texts = [report.reference for report in reports], [report.generated for report in reports]
    parts = [
        text_figures(*texts, studies),
        label_figures("chexpert", RULES, list(map(label, texts[0])), list(map(label, texts[1])), studies),
    ]
    chexbert = [report.chexbert for report in reports if report.chexbert is not None]
    if len(chexbert) == len(reports):
        sides = [pair[0] for pair in chexbert], [pair[1] for pair in chexbert]
        parts.append(label_figures("chexbert", CHEXBERT, *sides, studies))
    known = {name for report in reports for name in report.scores}
    scored = sorted(known, key=lambda name: (list(SCORES).index(score_kind(name)), name))
    values = {name: [report.scores.get(name, float("nan")) for report in reports] for name in scored}
    parts.append(score_figures(values, studies))
    counts = [report.meteor for report in reports if report.meteor is not None]
    if len(counts) == len(reports):
        figure, column = meteor_figure(np.array(counts, dtype=np.float64))
        parts.append(FigureSet(studies, {METEOR_15: column}, [figure]))
    columns = {name: values for part in parts for name, values in part.columns.items()}
    return FigureSet(studies, columns, [figure for part in parts for figure in part.figures])


def measure(
    figures: FigureSet, resamples: int, seed: int, baselines: Mapping[str, Mapping[str, float]]
) -> dict[str, FigureValue]:
    """Value and interval of every figure.

    Args:
        figures: over one kind of samples.
        resamples: of the bootstrap.
        seed: of it.
        baselines: baseline → figure → value.
    """
    draws = study_resamples(figures.studies, resamples, seed)
    values = figures.values()
    found = {}
    for figure in figures.figures:
        low, high = percentile_interval([figure.statistic(rows) for rows in draws])
        # COCO's figures have no value of their own for a prompt; like IoU they are over those with a target.
        column = figures.columns[figure.column or "iou"]
        found[figure.name] = FigureValue(
            value=_finite(values[figure.name]),
            low=_finite(low),
            high=_finite(high),
            n=int((~np.isnan(column)).sum()),
            better="more" if figure.sign > 0 else "less",
            variant=figure.variant,
            baselines={name: of[figure.name] for name, of in baselines.items() if _finite(of[figure.name]) is not None},
        )
    return found


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def write_evaluation(folder: Path, evaluation: Evaluation, samples: Samples, baselines: Baselines) -> None:
    """Write the folder's files, evaluation.json last: where it is, the others are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    if samples.grounding:
        _write_rows(folder / GROUNDING, _grounding_rows(samples, baselines))
    if samples.concepts:
        _write_rows(folder / CONCEPTS, _concept_rows(samples))
    if samples.reports:
        _write_rows(folder / REPORTS, _report_rows(samples))
    write_whole(folder / FILE, evaluation.model_dump_json(indent=2) + "\n")


def read_evaluation(folder: Path) -> tuple[Evaluation, Samples]:
    """Read what ``write_evaluation`` wrote.

    Raises:
        ConfigError: the folder has no evaluation.json, or a file of it cannot be read.
    """
    if not (folder / FILE).is_file():
        raise ConfigError(f"{folder}: no {FILE} in it; give a folder that `boxmed evaluate` wrote")
    try:
        evaluation = Evaluation.model_validate_json((folder / FILE).read_text())
        prompts, reports = _read_rows(folder / GROUNDING), _read_rows(folder / REPORTS)
        digests = {f"grounding {row['prompt_id']}": row["digest"] for row in prompts}
        digests |= {f"report {row['study_id']}": row["digest"] for row in reports}
        reasoning = _read_rows(folder / CONCEPTS)
        digests |= {f"concepts {row['study_id']}": row["digest"] for row in reasoning}
        samples = Samples(
            [_grounding_record(row) for row in prompts],
            [_report_record(row) for row in reports],
            digests,
            {row["study_id"]: row["image"] for row in prompts if row["image"]},
            [ConceptRecord(row["study_id"], row["reference"], row["generated"]) for row in reasoning],
        )
    except (ValidationError, KeyError, ValueError) as error:
        raise ConfigError(f"{folder}: not readable as an evaluation of this version: {error}") from error
    return evaluation, samples


def _grounding_rows(samples: Samples, baselines: Baselines) -> list[dict[str, Any]]:
    records = samples.grounding
    columns = grounding_figures(records).columns
    others = {f"iou_{name}": _ious(answers) for name, answers in baselines.items()}
    return [
        {
            "prompt_id": record.prompt_id,
            "study_id": record.study_id,
            "digest": samples.digests[f"grounding {record.prompt_id}"],
            "image": samples.images.get(record.study_id, ""),
            "label": record.label,
            "width": record.width,
            "height": record.height,
            "target": json.dumps(record.target),
            "greedy": json.dumps(record.greedy),
            "well_formed": int(record.well_formed),
            "sampled": json.dumps(record.sampled),
            "sampled_well_formed": json.dumps(record.sampled_well_formed),
            **{name: _cell(values[i]) for name, values in {**columns, **others}.items()},
            "greedy_text": record.greedy_text,
        }
        for i, record in enumerate(records)
    ]


def _ious(answers: Sequence[GroundingRecord | None]) -> Values:
    ious = (answer.iou if answer is not None and answer.target else np.nan for answer in answers)
    return np.fromiter(ious, dtype=np.float64)


def _grounding_record(row: Mapping[str, str]) -> GroundingRecord:
    return GroundingRecord(
        prompt_id=row["prompt_id"],
        study_id=row["study_id"],
        label=row["label"],
        width=int(row["width"]),
        height=int(row["height"]),
        target=_boxes(json.loads(row["target"])) or (),
        greedy=_boxes(json.loads(row["greedy"])),
        well_formed=row["well_formed"] == "1",
        sampled=tuple(_boxes(answer) for answer in json.loads(row["sampled"])),
        sampled_well_formed=tuple(json.loads(row["sampled_well_formed"])),
        greedy_text=row["greedy_text"],
    )


def _boxes(value: list[list[float]] | None) -> tuple[BoxT, ...] | None:
    return None if value is None else tuple((box[0], box[1], box[2], box[3]) for box in value)


def _concept_rows(samples: Samples) -> list[dict[str, Any]]:
    columns = concept_figures(samples.concepts).columns
    return [
        {
            "study_id": record.study_id,
            "digest": samples.digests[f"concepts {record.study_id}"],
            "reference": record.reference,
            "generated": record.generated,
            **{name: _cell(values[i]) for name, values in columns.items()},
        }
        for i, record in enumerate(samples.concepts)
    ]


def _report_rows(samples: Samples) -> list[dict[str, Any]]:
    columns = _report_figures(samples.reports).columns
    return [
        {
            "study_id": report.study_id,
            "digest": samples.digests[f"report {report.study_id}"],
            "reference": report.reference,
            "generated": report.generated,
            "chexbert_labels": json.dumps(report.chexbert) if report.chexbert else "",
            "meteor_counts": json.dumps(report.meteor) if report.meteor else "",
            **{name: _cell(values[i]) for name, values in columns.items()},
        }
        for i, report in enumerate(samples.reports)
    ]


def _report_record(row: Mapping[str, str]) -> ReportRecord:
    labels = json.loads(row["chexbert_labels"]) if row["chexbert_labels"] else None
    counts = row.get("meteor_counts")  # absent in folders of the first version
    return ReportRecord(
        study_id=row["study_id"],
        reference=row["reference"],
        generated=row["generated"],
        scores={name: float(cell) for name, cell in row.items() if cell and score_kind(name) in SCORES},
        meteor=json.loads(counts) if counts else None,
        chexbert=None if labels is None else (_statuses(labels[0]), _statuses(labels[1])),
    )


def _statuses(labels: Mapping[str, str]) -> dict[str, Status]:
    return {name: Status(status) for name, status in labels.items()}


def _cell(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    before = csv.field_size_limit(_CELL)  # of the whole process: others rely on theirs
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    finally:
        csv.field_size_limit(before)
