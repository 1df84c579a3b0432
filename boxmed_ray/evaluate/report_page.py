"""report.html: one self-contained page per run, for paper and for a phone.

What lives here: gathering what the page shows and filling the template (templates/). What does not: the
figures (summary.py), the curves (curves.py), the choice of cases (cases.py), the words of the verdict (verdict.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from boxmed_ray.evaluate.cases import Case, ReportCase, choose_cases, data_uri
from boxmed_ray.evaluate.csv_text import csv_text, csv_uri
from boxmed_ray.evaluate.curves import curves_csv, draw_curves
from boxmed_ray.evaluate.pages import write_page
from boxmed_ray.evaluate.summary import GroundingSummary, LabelSummary, Summary
from boxmed_ray.evaluate.verdict import verdict
from boxmed_ray.evaluate.watched import read_alarms, read_watched
from boxmed_ray.tracking import read_metrics

FILE = "report.html"
SHOWN_CASES, SHOWN_REPORTS = 24, 8
STAGES = {
    "random_box": "Random box",
    "constant_box": "Constant box",
    "mcl": "MCL",
    "svr": "SVR",
    "adapter_off": "Adapter stage, adapter off",
}


def write_report(
    folder: Path, summary: Summary, metrics: Path, cases: Sequence[Case], reports: Sequence[ReportCase]
) -> Path:
    """Write ``folder``/report.html and return its path.

    Args:
        folder: the run folder; its name is the run's.
        summary: the figures.
        metrics: metrics.jsonl, from which the curves are drawn; may be absent.
        cases: held-out prompts with both answers; the page shows an even choice of them.
        reports: generated reports; the page shows the first ``SHOWN_REPORTS``.
    """
    shown = choose_cases(cases, SHOWN_CASES)
    return _write(
        folder,
        "report.html",
        metrics,
        summary=summary,
        downloads=_downloads(summary, _read(metrics)),
        remarks=verdict(summary),
        stages=_stages(summary),
        labels=_label_rows(summary),
        cases=[(case, data_uri(case.image)) for case in shown],
        case_count=len(cases),
        reports=[(case, data_uri(case.image) if case.image else None) for case in reports[:SHOWN_REPORTS]],
        report_count=len(reports),
    )


def write_stopped(folder: Path, reason: str, metrics: Path) -> Path:
    """Write ``folder``/report.html of a run that an alarm has stopped: why, what was watched, the curves."""
    return _write(folder, "stopped.html", metrics, reason=reason)


def _write(folder: Path, template: str, metrics: Path, **values: Any) -> Path:
    return write_page(
        folder / FILE,
        template,
        {"figure": _figure},
        name=folder.resolve().name,
        curves=[(curve, Markup(curve.svg)) for curve in draw_curves(_read(metrics))],
        watched=read_watched(folder),
        alarms=read_alarms(folder),
        **values,
    )


def _read(metrics: Path) -> list[dict[str, Any]]:
    return read_metrics(metrics) if metrics.is_file() else []


def _stages(summary: Summary) -> list[tuple[str, GroundingSummary]]:
    rows = [(STAGES[key], getattr(summary.grounding, key)) for key in STAGES]
    return [(name, row) for name, row in rows if row is not None]


def _downloads(summary: Summary, metrics: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name → CSV file of all that the page draws or lists, as an address."""
    grounding: list[list[object]] = [["model", "label", "n", "mean_iou", "sampled_mean_iou", "share_50"]]
    for name, row in _stages(summary):
        parts: list[tuple[str, GroundingSummary | LabelSummary]] = [("", row), *row.per_label.items()]
        for label, part in parts:
            grounding.append([name, label, part.n, part.mean_iou, part.sampled_mean_iou, part.share_50])
    files = {"grounding.csv": csv_text(grounding)}
    if summary.report and summary.report.disease_f1_per_label:
        scores = summary.report.disease_f1_per_label.items()
        lines = [[disease, row.f1, row.precision, row.recall, row.n] for disease, row in scores]
        files["diseases.csv"] = csv_text([["disease", "f1", "precision", "recall", "n"], *lines])
    if metrics:
        files["curves.csv"] = curves_csv(metrics)
    return {name: csv_uri(text) for name, text in files.items()}


def _label_rows(summary: Summary) -> list[dict[str, Any]]:
    """One row a label: greedy means of the columns, and whether SVR (or MCL) beats the constant box."""
    columns = {key: getattr(summary.grounding, key) for key in ("random_box", "constant_box", "mcl", "svr")}
    rows = []
    all_labels = summary.grounding.constant_box.per_label if summary.grounding.constant_box else {}
    for label, constant in all_labels.items():
        row: dict[str, Any] = {"label": label, "n": constant.n}
        row |= {key: part.per_label.get(label) if part else None for key, part in columns.items()}
        best = row["svr"] or row["mcl"]
        row["below"] = best is not None and best.mean_iou <= constant.mean_iou
        rows.append(row)
    return rows


def _figure(value: float | None, digits: int = 3) -> str:
    """A figure for a table; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
