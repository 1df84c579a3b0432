"""An evaluation as one self-contained HTML page, for paper and for a phone.

What lives here: gathering what the page shows, and each of its charts as CSV. What does not: the figures
(evaluation.py), the words around them (templates/evaluation.html), the page of a training run (report_page.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from boxmed_ray.evaluate.comparison_page import Bars, categories, paired_bars
from boxmed_ray.evaluate.csv_text import csv_text, csv_uri
from boxmed_ray.evaluate.curves import curves_csv, draw_curves
from boxmed_ray.evaluate.evaluation import Baselines, Evaluation, Samples
from boxmed_ray.evaluate.grounding_figures import label_ious
from boxmed_ray.evaluate.pages import write_page
from boxmed_ray.evaluate.radar import radar_axes, radar_csv, radar_svg
from boxmed_ray.evaluate.study_cases import picture, study_cases, worst_studies
from boxmed_ray.evaluate.tables import baseline_names

FILE: Final = "evaluation.html"
READERS: Final = "readers"
"""The baseline that is not over the prompts, but over what several people read."""


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
    kinds = {"Grounding": evaluation.grounding, "Reasoning": evaluation.concepts, "Reports": evaluation.reports}
    axes = radar_axes([{name: f.value for part in kinds.values() for name, f in part.items()}])
    bars = class_bars(samples, baselines)
    return write_page(
        folder / FILE,
        "evaluation.html",
        {},
        evaluation=evaluation,
        kinds={title: figures for title, figures in kinds.items() if figures},
        beside=baseline_names({name: figure.baselines for name, figure in evaluation.grounding.items()}),
        radar=Markup(radar_svg(axes, [evaluation.name])),
        bars=bars,
        curves=[(curve, Markup(curve.svg)) for curve in draw_curves(metrics)],
        cases=[(case, picture(samples, case.study_id)) for case in worst_studies(samples)],
        studies=len(study_cases(samples)),
        downloads={
            "figures.csv": csv_uri(figures_csv(evaluation)),
            "classes.csv": csv_uri(bars_csv(bars)),
            "radar.csv": csv_uri(radar_csv(axes, [evaluation.name])),
            **({"curves.csv": csv_uri(curves_csv(metrics))} if metrics else {}),
        },
    )


def class_bars(samples: Samples, baselines: Baselines) -> list[Bars]:
    """Mean IoU of each label beside the constant box, of people, and positive-class F1 of each CheXpert category."""
    constant = [answer for answer in baselines.get("constant_box", ()) if answer is not None]
    people = [answer for answer in baselines.get(READERS, baselines.get("second_reader", ())) if answer is not None]
    charts = [
        Bars("Mean IoU by label", paired_bars(label_ious(samples.grounding), label_ious(constant))),
        Bars("Agreement of two readers, mean IoU by label", paired_bars(label_ious(people), {})),
        Bars("CheXpert F1 by category", {name: (value, None) for name, value in categories(samples).items()}),
    ]
    return [chart for chart in charts if chart.rows]


def figures_csv(evaluation: Evaluation) -> str:
    """A line a figure, with its interval, its definition and a column for each baseline."""
    kinds = {"grounding": evaluation.grounding, "concepts": evaluation.concepts, "reports": evaluation.reports}
    names = list(dict.fromkeys(name for part in kinds.values() for f in part.values() for name in f.baselines))
    rows: list[list[object]] = [["kind", "figure", "value", "low", "high", "n", "better", *names, "variant"]]
    for kind, figures in kinds.items():
        for figure, f in figures.items():
            beside = (f.baselines.get(name) for name in names)
            rows.append([kind, figure, f.value, f.low, f.high, f.n, f.better, *beside, f.variant])
    return csv_text(rows)


def bars_csv(bars: Sequence[Bars]) -> str:
    """A line a bar, with the value it stands beside."""
    lines = ([chart.title, name, *values] for chart in bars for name, values in chart.rows.items())
    return csv_text([["chart", "class", "model", "constant_box"], *lines])
