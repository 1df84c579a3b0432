"""An evaluation as one self-contained HTML page, for paper and for a phone.

What lives here: gathering what the page shows, and each of its charts as CSV. What does not: the figures
(evaluation.py), the words around them (templates/evaluation.html), the page of a training run (report_page.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from boxmed_ray.evaluate.cases import MCL, SVR, TRUTH, data_uri
from boxmed_ray.evaluate.comparison_page import Bars, categories, csv_uri, paired_bars
from boxmed_ray.evaluate.curves import PANELS, draw_curves, series
from boxmed_ray.evaluate.evaluation import Baselines, Evaluation, Samples
from boxmed_ray.evaluate.grounding import GroundingRecord
from boxmed_ray.evaluate.grounding_figures import label_ious
from boxmed_ray.evaluate.radar import radar_axes, radar_svg

FILE: Final = "evaluation.html"
SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class StudyCase:
    """One held-out image: its prompts with a true box, and what the model wrote of it."""

    study_id: str
    prompts: Sequence[GroundingRecord]
    reference: str | None
    generated: str | None
    reasoning: str | None
    true_reasoning: str | None

    @property
    def iou(self) -> float:
        """Mean over its prompts."""
        return sum(record.iou for record in self.prompts) / len(self.prompts)


def write_evaluation_page(
    folder: Path,
    evaluation: Evaluation,
    samples: Samples,
    baselines: Baselines,
    metrics: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write ``folder``/evaluation.html and return its path.

    Args:
        folder: of the evaluation.
        evaluation: its figures.
        samples: what they are over.
        baselines: answers beside the model's.
        metrics: lines of metrics.jsonl of the run that the model is of, for its curves.
    """
    environment = Environment(
        loader=PackageLoader("boxmed_ray.evaluate"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    kinds = {"Grounding": evaluation.grounding, "Reasoning": evaluation.concepts, "Reports": evaluation.reports}
    axes = radar_axes([{name: f.value for part in kinds.values() for name, f in part.items()}])
    bars = class_bars(samples, baselines)
    cases = worst_studies(samples)
    page = environment.get_template("evaluation.html").render(
        evaluation=evaluation,
        css=Markup(environment.get_template("report.css").render(truth=TRUTH, mcl=MCL, svr=SVR)),
        kinds={title: figures for title, figures in kinds.items() if figures},
        beside=list(baselines),
        radar=Markup(radar_svg(axes, [evaluation.name])),
        bars=bars,
        curves=[(curve, Markup(curve.svg)) for curve in draw_curves(metrics)],
        cases=[(case, _picture(samples.images.get(case.study_id))) for case in cases],
        studies=len({record.study_id for record in samples.grounding if record.target}),
        downloads={
            "figures.csv": csv_uri(figures_csv(evaluation)),
            "classes.csv": csv_uri(bars_csv(bars)),
            "radar.csv": csv_uri(
                _csv([["axis", evaluation.name], *([text, *values] for text, values in axes.items())])
            ),
            **({"curves.csv": csv_uri(curves_csv(metrics))} if metrics else {}),
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_text(page, encoding="utf-8")
    return path


def class_bars(samples: Samples, baselines: Baselines) -> list[Bars]:
    """Mean IoU of each label beside the constant box, and positive-class F1 of each CheXpert category."""
    constant = [answer for answer in baselines.get("constant_box", ()) if answer is not None]
    charts = [
        Bars("Mean IoU by label", paired_bars(label_ious(samples.grounding), label_ious(constant))),
        Bars("CheXpert F1 by category", {name: (value, None) for name, value in categories(samples).items()}),
    ]
    return [chart for chart in charts if chart.rows]


def worst_studies(samples: Samples, count: int = SHOWN) -> list[StudyCase]:
    """Images with a true box, by the mean IoU of their prompts from below."""
    prompts: dict[str, list[GroundingRecord]] = {}
    for record in samples.grounding:
        if record.target:
            prompts.setdefault(record.study_id, []).append(record)
    reports = {report.study_id: report for report in samples.reports}
    reasoning = {record.study_id: record for record in samples.concepts}
    cases = [
        StudyCase(
            study_id=study,
            prompts=own,
            reference=reports[study].reference if study in reports else None,
            generated=reports[study].generated if study in reports else None,
            reasoning=reasoning[study].generated if study in reasoning else None,
            true_reasoning=reasoning[study].reference if study in reasoning else None,
        )
        for study, own in prompts.items()
    ]
    return sorted(cases, key=lambda case: (case.iou, case.study_id))[:count]


def figures_csv(evaluation: Evaluation) -> str:
    """A line a figure, with its interval, its definition and the baselines."""
    rows: list[list[object]] = [["kind", "figure", "value", "low", "high", "n", "better", "baselines", "variant"]]
    for kind, figures in (
        ("grounding", evaluation.grounding), ("concepts", evaluation.concepts), ("reports", evaluation.reports),
    ):  # fmt: skip
        for name, f in figures.items():
            beside = "; ".join(f"{other} {value!r}" for other, value in f.baselines.items())
            rows.append([kind, name, f.value, f.low, f.high, f.n, f.better, beside, f.variant])
    return _csv(rows)


def bars_csv(bars: Sequence[Bars]) -> str:
    """A line a bar, with the value it stands beside."""
    lines = ([chart.title, name, *values] for chart in bars for name, values in chart.rows.items())
    return _csv([["chart", "class", "model", "constant_box"], *lines])


def curves_csv(metrics: Sequence[Mapping[str, Any]]) -> str:
    """A line a step of every curve that the page may show."""
    rows: list[list[object]] = [["stage", "quantity", "step", "value"]]
    for panel in PANELS:
        for key in panel.keys:
            rows += [[panel.stage, key, step, value] for step, value in series(metrics, panel.stage, key)]
    return _csv(rows)


def _csv(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(["" if cell is None else cell for cell in row] for row in rows)
    return buffer.getvalue()


def _picture(path: str | None) -> str | None:
    return data_uri(Path(path)) if path and Path(path).is_file() else None
