"""A comparison of two evaluations as one self-contained HTML page.

What lives here: gathering what the page shows: the table, bars per class, the worst cases with their boxes. What does
not: the figures (comparison.py) and the words around them (templates/comparison.html).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from boxmed_ray.evaluate.cases import MCL, SVR, TRUTH, data_uri
from boxmed_ray.evaluate.comparison import Difference
from boxmed_ray.evaluate.evaluation import Samples
from boxmed_ray.evaluate.grounding import GroundingRecord
from boxmed_ray.evaluate.grounding_figures import label_ious
from boxmed_ray.evaluate.label_figures import category_f1
from boxmed_ray.evaluate.radar import radar_axes, radar_svg
from boxmed_ray.evaluate.tables import comparison_csv
from rewards.text.labels import label

SHOWN = 24


@dataclass(frozen=True, slots=True)
class Bars:
    """One chart: a class → both sides' values, in [0, 1]; None where a side has none."""

    title: str
    rows: Mapping[str, tuple[float | None, float | None]]


def write_comparison_page(
    path: Path, names: tuple[str, str], found: Sequence[Difference], first: Samples, second: Samples
) -> None:
    """Write the page; images that are no longer where they were are left out, their boxes stay.

    Args:
        path: of the page.
        names: of both sides.
        found: the comparison.
        first: samples of the side held to be better.
        second: the same samples of the other.
    """
    environment = Environment(
        loader=PackageLoader("boxmed_ray.evaluate"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    bars = class_bars(first, second)
    axes = radar_axes([{each.name: each.first for each in found}, {each.name: each.second for each in found}])
    table = comparison_csv(found)
    classes = "chart,class,first,second\n" + "".join(
        f"{chart.title},{name},{_cell(a)},{_cell(b)}\n" for chart in bars for name, (a, b) in chart.rows.items()
    )
    cases = worst_cases(first, second)
    page = environment.get_template("comparison.html").render(
        names=names,
        css=Markup(environment.get_template("report.css").render(truth=TRUTH, mcl=MCL, svr=SVR)),
        found=found,
        bars=bars,
        radar=Markup(radar_svg(axes, names)),
        downloads={"figures.csv": csv_uri(table), "classes.csv": csv_uri(classes)},
        cases=[(ours, theirs, _picture(first.images.get(ours.study_id))) for ours, theirs in cases],
        prompts=sum(bool(record.target) for record in first.grounding),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def class_bars(first: Samples, second: Samples) -> list[Bars]:
    """Mean IoU of each label, and positive-class F1 of each CheXpert category; charts without a class are left out."""
    charts = [
        Bars("Mean IoU by label", paired_bars(label_ious(first.grounding), label_ious(second.grounding))),
        Bars("CheXpert F1 by category", paired_bars(categories(first), categories(second))),
    ]
    return [chart for chart in charts if chart.rows]


def worst_cases(first: Samples, second: Samples, count: int = SHOWN) -> list[tuple[GroundingRecord, GroundingRecord]]:
    """Prompts with a target, both sides' answers, by the first side's IoU from below."""
    others = {record.prompt_id: record for record in second.grounding}
    found = sorted((r for r in first.grounding if r.target), key=lambda r: (r.iou, r.prompt_id))
    return [(record, others[record.prompt_id]) for record in found[:count]]


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


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def csv_uri(text: str) -> str:
    """A CSV file in a ``data:`` address."""
    return "data:text/csv;base64," + base64.b64encode(text.encode()).decode()


def _picture(path: str | None) -> str | None:
    return data_uri(Path(path)) if path and Path(path).is_file() else None
