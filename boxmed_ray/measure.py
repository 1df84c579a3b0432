"""From a model's answers on the held-out split to the folder of an evaluation.

What lives here: scoring, baselines and figures, put together. What does not: asking the model (stages/held_out.py), the
figures themselves and the files (evaluate/).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import isnan
from pathlib import Path
from typing import Any

from boxmed_ray.config import RunConfig
from boxmed_ray.data.examples import grounded_findings
from boxmed_ray.data.load import Dataset
from boxmed_ray.data.readers import SkippedStudy
from boxmed_ray.data.readers.manifest import find_manifest, read_manifest
from boxmed_ray.data.study import DataError
from boxmed_ray.evaluate.baselines import (
    answer_as_reader,
    answer_with_constant_box,
    answer_with_random_box,
    fit_constant_boxes,
    readers_against_each_other,
)
from boxmed_ray.evaluate.curves import CURVES, curves_csv
from boxmed_ray.evaluate.evaluation import (
    Baselines,
    Evaluation,
    ReportRecord,
    Samples,
    figures_of,
    measure,
    write_evaluation,
)
from boxmed_ray.evaluate.evaluation_page import READERS, write_evaluation_page
from boxmed_ray.evaluate.grounding import GroundingRecord
from boxmed_ray.evaluate.grounding_figures import baseline_values
from boxmed_ray.evaluate.scores import Scores, score_reports
from boxmed_ray.results import training_boxes, versions
from boxmed_ray.stages.held_out import Adapter, Answers
from rewards.sample import BoxT

_COUNTERS = ("sacrebleu", "rouge-score", "nltk", "scipy")
"""Packages on which figures rest, beside those of ``versions``."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was asked: name of the evaluation, folder of the backbone, adapter, and the config."""

    name: str
    model: Path
    adapter: Adapter | None
    config: RunConfig


def write_measured(
    out: Path,
    what: Measured,
    dataset: Dataset,
    answers: Answers,
    resamples: int,
    metrics: Sequence[Mapping[str, Any]] = (),
) -> Evaluation:
    """Score the answers, write the folder of the evaluation and return what is in evaluation.json.

    ``metrics``: lines of metrics.jsonl of the run that the model is of, if any.
    """
    config = what.config
    references = [study.report or "" for study in answers.studies]
    judges, paths = config.evaluate.judges, config.scorers.paths
    scores = score_reports(references, answers.reports, paths, judges, out) if references else Scores()
    images = {study.id: str(study.image.resolve()) for study in dataset.split("test")}
    samples = Samples(answers.grounding, _report_records(answers, scores), answers.digests, images, answers.concepts)
    baselines = _baselines(answers.grounding, dataset, config)
    readers, words = _readers(answers.grounding, dataset, config)
    people = {READERS: readers} if readers else {}
    of_baselines = {"grounding": baseline_values({**baselines, **people})}
    values = {
        kind: measure(figures, resamples, config.seed, of_baselines.get(kind, {}))
        for kind, figures in figures_of(samples).items()
    }
    evaluation = Evaluation(
        name=what.name,
        model=str(what.model),
        adapter=str(what.adapter.folder) if what.adapter else None,
        adapter_for="all" if what.adapter and what.adapter.for_all else "reports",
        data=config.data.kind,
        data_hash=dataset.hash,
        seed=config.seed,
        resamples=resamples,
        versions=versions() | {name: version(name) for name in _COUNTERS},
        grounding=values.get("grounding", {}),
        concepts=values.get("concepts", {}),
        reports=values.get("reports", {}),
        missing=scores.missing,
        readers=words,
    )
    write_evaluation_page(out, evaluation, samples, {**baselines, **people}, metrics)
    if metrics:
        (out / CURVES).write_text(curves_csv(metrics), encoding="utf-8", newline="")
    write_evaluation(out, evaluation, samples, baselines)
    return evaluation


def _baselines(records: list[GroundingRecord], dataset: Dataset, config: RunConfig) -> Baselines:
    """Fitted on the training split, without which there are none; and the second reader, where there is one."""
    found: dict[str, Sequence[GroundingRecord | None]] = {}
    boxes = training_boxes(dataset)
    if records and boxes:
        found["constant_box"] = answer_with_constant_box(records, fit_constant_boxes(boxes, config.seed))
        found["random_box"] = answer_with_random_box(records, boxes, config.seed)
    if records and config.evaluate.second_reader is not None:
        found["second_reader"] = answer_as_reader(records, read_readings(config.evaluate.second_reader))
    return found


def _readers(records: list[GroundingRecord], dataset: Dataset, config: RunConfig) -> tuple[list[GroundingRecord], str]:
    """Readers of the same images against each other, and which images: those asked about, else of the training split.

    ``evaluate.images`` of them at most.
    """
    asked = {record.study_id for record in records}
    held_out = [study for study in dataset.split("test") if study.id in asked]
    for words, studies in (("held-out images", held_out), ("images of the training split", dataset.split("train"))):
        several = [study for study in studies if any(finding.readings for finding in study.findings)]
        found = readers_against_each_other(several[: config.evaluate.images]) if asked else []
        if found:
            return found, f"{len({record.study_id for record in found})} {words}"
    return [], ""


def read_readings(manifest: Path) -> dict[str, dict[str, list[BoxT]]]:
    """Study → phrase → boxes of a manifest; studies that cannot be read are an error.

    Raises:
        DataError: the manifest, or one of its studies, cannot be read.
    """
    readings: dict[str, dict[str, list[BoxT]]] = {}
    for item in read_manifest(find_manifest(manifest)):
        if isinstance(item, SkippedStudy):
            raise DataError(f"evaluate.second_reader: {item.reason}")
        boxes = {f.phrase: [(b.x1, b.y1, b.x2, b.y2) for b in f.boxes] for f in grounded_findings(item.study)}
        readings[item.study.id] = boxes
    return readings


def _report_records(answers: Answers, scores: Scores) -> list[ReportRecord]:
    return [
        ReportRecord(
            study_id=study.id,
            reference=study.report or "",
            generated=answers.reports[i],
            scores={name: values[i] for name, values in scores.values.items() if not isnan(values[i])},
            meteor=None if scores.meteor_counts is None else scores.meteor_counts[i],
            chexbert=None if scores.labels is None else (scores.labels[0][i], scores.labels[1][i]),
        )
        for i, study in enumerate(answers.studies)
    ]
