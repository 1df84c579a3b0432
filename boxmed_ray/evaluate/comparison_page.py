"""A comparison of two evaluations as one self-contained HTML page.

What lives here: gathering what the page shows: the table, bars per class, the worst cases with their boxes. What does
not: the figures (comparison.py) and the words around them (templates/comparison.html).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from boxmed_ray.evaluate.comparison import Difference, in_order_of
from boxmed_ray.evaluate.csv_text import csv_text, csv_uri
from boxmed_ray.evaluate.curves import curves_csv, draw_curves
from boxmed_ray.evaluate.evaluation import Samples
from boxmed_ray.evaluate.grounding_figures import label_ious
from boxmed_ray.evaluate.label_figures import category_f1
from boxmed_ray.evaluate.pages import write_page
from boxmed_ray.evaluate.radar import radar_axes, radar_csv, radar_svg
from boxmed_ray.evaluate.study_cases import picture, study_cases, worst_studies
from boxmed_ray.evaluate.tables import Beside, bare_p, baseline_names, comparison_csv
from rewards.text.labels import label

_KINDS: Final = {"grounding": "Grounding", "concepts": "Reasoning", "reports": "Reports"}


@dataclass(frozen=True, slots=True)
class Bars:
    """One chart: a class → both sides' values, in [0, 1]; None where a side has none."""

    title: str
    rows: Mapping[str, tuple[float | None, float | None]]


@dataclass(frozen=True, slots=True)
class Side:
    """One evaluation of a comparison: its name, its samples, and the metrics of its training, for the curves."""

    name: str
    samples: Samples
    metrics: Sequence[Mapping[str, Any]] = ()


def write_comparison_page(path: Path, found: Sequence[Difference], first: Side, second: Side, beside: Beside) -> None:
    """Write the page; images that are no longer where they were are left out, their boxes stay.

    Args:
        path: of the page.
        found: the comparison.
        first: the side held to be better.
        second: the other, over the same samples.
        beside: baselines of the figures of grounding.
    """
    names = first.name, second.name
    bars = class_bars(first.samples, second.samples)
    axes = radar_axes([{each.name: each.first for each in found}, {each.name: each.second for each in found}])
    classes = [[chart.title, name, *values] for chart in bars for name, values in chart.rows.items()]
    others = study_cases(in_order_of(second.samples, first.samples))
    curves = {f"curves-{i}.csv": side.metrics for i, side in enumerate((first, second), start=1) if side.metrics}
    write_page(
        path,
        "comparison.html",
        {"p": bare_p},
        names=names,
        kinds={title: own for kind, title in _KINDS.items() if (own := [each for each in found if each.kind == kind])},
        beside=beside,
        baselines=baseline_names(beside),
        bars=bars,
        radar=Markup(radar_svg(axes, names)),
        curves=[(curve, Markup(curve.svg)) for curve in draw_curves(first.metrics, second.metrics)],
        downloads={
            "figures.csv": csv_uri(comparison_csv(found, beside)),
            "classes.csv": csv_uri(csv_text([["chart", "class", "first", "second"], *classes])),
            "radar.csv": csv_uri(radar_csv(axes, names)),
            **{name: csv_uri(curves_csv(lines)) for name, lines in curves.items()},
        },
        cases=[
            (case, others[case.study_id], picture(first.samples, case.study_id))
            for case in worst_studies(first.samples)
        ],
        studies=len(others),
    )


def class_bars(first: Samples, second: Samples) -> list[Bars]:
    """Mean IoU of each label, and positive-class F1 of each CheXpert category; charts without a class are left out."""
    charts = [
        Bars("Mean IoU by label", paired_bars(label_ious(first.grounding), label_ious(second.grounding))),
        Bars("CheXpert F1 by category", paired_bars(categories(first), categories(second))),
    ]
    return [chart for chart in charts if chart.rows]


def categories(samples: Samples) -> dict[str, float]:
    """Positive-class F1 of each CheXpert category in the generated reports."""
    return category_f1(
        [label(report.reference) for report in samples.reports], [label(report.generated) for report in samples.reports]
    )


def paired_bars(
    first: Mapping[str, float], second: Mapping[str, float]
) -> dict[str, tuple[float | None, float | None]]:
    """Values of both sides by class."""
    return {name: (first.get(name), second.get(name)) for name in sorted(first.keys() | second.keys())}
