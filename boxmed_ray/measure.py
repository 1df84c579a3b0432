"""From a model's answers on the held-out split to the folder of an evaluation.

What lives here: scoring, baselines and figures, put together. What does not: asking the model (stages/held_out.py), the
figures themselves and the files (evaluate/).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from boxmed_ray.config import RunConfig
from boxmed_ray.data.load import Dataset
from boxmed_ray.evaluate.baselines import answer_with_constant_box, answer_with_random_box, fit_constant_boxes
from boxmed_ray.evaluate.evaluation import Evaluation, ReportRecord, Samples, figures_of, measure, write_evaluation
from boxmed_ray.evaluate.grounding import GroundingRecord
from boxmed_ray.evaluate.grounding_figures import baseline_values
from boxmed_ray.evaluate.scores import Scores, score_reports
from boxmed_ray.results import training_boxes, versions
from boxmed_ray.stages.held_out import Adapter, Answers

_COUNTERS = ("sacrebleu", "rouge-score", "nltk", "scipy")
"""Packages on which figures rest, beside those of ``versions``."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was asked: name of the evaluation, folder of the backbone, adapter, and the config."""

    name: str
    model: Path
    adapter: Adapter | None
    config: RunConfig


def write_measured(out: Path, what: Measured, dataset: Dataset, answers: Answers, resamples: int) -> Evaluation:
    """Score the answers, write the folder of the evaluation and return what is in evaluation.json."""
    config = what.config
    references = [study.report or "" for study in answers.studies]
    scores = score_reports(references, answers.reports, config.scorers.paths) if references else Scores()
    images = {study.id: str(study.image.resolve()) for study in dataset.split("test")}
    samples = Samples(answers.grounding, _report_records(answers, scores), answers.digests, images)
    baselines = _baselines(answers.grounding, dataset, config.seed)
    of_baselines = {"grounding": baseline_values(baselines)}
    values = {
        kind: measure(figures, resamples, config.seed, of_baselines.get(kind, {}))
        for kind, figures in figures_of(samples).items()
    }
    evaluation = Evaluation(
        name=what.name,
        model=str(what.model),
        adapter=str(what.adapter.folder) if what.adapter else None,
        data=config.data.kind,
        data_hash=dataset.hash,
        seed=config.seed,
        resamples=resamples,
        versions=versions() | {name: version(name) for name in _COUNTERS},
        grounding=values.get("grounding", {}),
        reports=values.get("reports", {}),
        missing=scores.missing,
    )
    write_evaluation(out, evaluation, samples, baselines)
    return evaluation


def _baselines(records: list[GroundingRecord], dataset: Dataset, seed: int) -> dict[str, list[GroundingRecord]]:
    """Fitted on the training split; none where it has no box."""
    boxes = training_boxes(dataset)
    if not records or not boxes:
        return {}
    return {
        "constant_box": answer_with_constant_box(records, fit_constant_boxes(boxes, seed)),
        "random_box": answer_with_random_box(records, boxes, seed),
    }


def _report_records(answers: Answers, scores: Scores) -> list[ReportRecord]:
    return [
        ReportRecord(
            study_id=study.id,
            reference=study.report or "",
            generated=answers.reports[i],
            scores={name: values[i] for name, values in scores.values.items()},
            chexbert=None if scores.labels is None else (scores.labels[0][i], scores.labels[1][i]),
        )
        for i, study in enumerate(answers.studies)
    ]
