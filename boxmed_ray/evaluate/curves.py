"""Curves of a run as inline SVG.

What lives here: which curves a report shows and how one is drawn. What does not: the page around them.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from boxmed_ray.config import ConfigError
from boxmed_ray.evaluate.csv_text import csv_text

CURVES: Final = "curves.csv"
"""Of the folder of an evaluation: the curves of the run that its model is of."""
_RAW, _SMOOTH, _OTHER = "#9db8d2", "#12436d", "#b4520e"
_SIZE = (4.4, 2.5)
"""Inches at 72 a unit: text of 9 points is 9 of 317 units wide, readable where the page is a phone's."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One curve a report shows where the metrics have it: the first of ``keys`` that is there.

    ``zero``: the axis starts at 0, for quantities whose size matters more than their change.
    """

    stage: str
    keys: tuple[str, ...]
    title: str
    zero: bool = False


PANELS = (
    Panel("svr", ("reward",), "SVR: reward"),
    Panel("svr", ("iou",), "SVR: IoU of sampled answers"),
    Panel("svr", ("kl",), "SVR: KL to the MCL model, nats a token", zero=True),
    Panel("svr", ("length",), "SVR: tokens of a response", zero=True),
    Panel("svr", ("format", "well_formed"), "SVR: share of well-formed responses"),
    Panel("mcl", ("loss",), "MCL: loss, nats a token", zero=True),
    Panel("adapter", ("loss",), "Adapter: loss, nats a token", zero=True),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """A drawn panel: its title, an ``<svg>`` element, and in words where it starts and ends."""

    title: str
    svg: str
    words: str


def draw_curves(
    metrics: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]] = (), panels: Sequence[Panel] = PANELS
) -> list[Curve]:
    """Every panel of which a side holds at least two points, in order; the other side's lines are dashed."""
    curves = []
    for panel in panels:
        for key in panel.keys:
            sides = [series(lines, panel.stage, key) for lines in (metrics, others)]
            if any(len(points) > 1 for points in sides):
                curves.append(_draw(panel, *sides))
                break
    return curves


def curves_csv(metrics: Sequence[Mapping[str, Any]]) -> str:
    """A line a step of every curve that a page may show."""
    rows: list[list[object]] = [["stage", "quantity", "step", "value"]]
    for panel in PANELS:
        for key in panel.keys:
            rows += [[panel.stage, key, step, value] for step, value in series(metrics, panel.stage, key)]
    return csv_text(rows)


def read_curves(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics from what ``curves_csv`` wrote; none without the file.

    Raises:
        ConfigError: it is another file.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                {"stage": row["stage"], "step": int(row["step"]), row["quantity"]: float(row["value"])}
                for row in csv.DictReader(file)
            ]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not readable as curves ({error}); delete it") from error


def series(metrics: Sequence[Mapping[str, Any]], stage: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of one quantity of one stage; steps where it is missing or null are left out."""
    rows = (line for line in metrics if line["stage"] == stage)
    return [(line["step"], float(line[key])) for line in rows if line.get(key) is not None]


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean over ``width`` values centred on each; at the ends over those of them that there are."""
    sums = list(itertools.accumulate(values, initial=0.0))
    half = width // 2
    spans = ((max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def _draw(panel: Panel, points: Sequence[tuple[int, float]], others: Sequence[tuple[int, float]]) -> Curve:
    # A salt of its own keeps the ids of one figure apart from those of the next in the same page.
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": panel.title, "font.size": 9, "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        words = []
        for side, colour, dashes in ((points, _SMOOTH, "-"), (others, _OTHER, "--")):
            if not side:
                continue
            steps, values = zip(*side, strict=True)
            smooth = running_mean(values, max(3, len(values) // 10))
            if not others:
                axes.plot(steps, values, color=_RAW, linewidth=1)
            axes.plot(steps, smooth, color=colour, linestyle=dashes, linewidth=2)
            words.append(f"{smooth[0]:#.3g} → {smooth[-1]:#.3g} in {len(values)} steps")
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_ylim(*_limits(panel, [value for _, value in (*points, *others)]))
        return Curve(panel.title, _to_svg(figure), "; ".join(words))


def _limits(panel: Panel, values: Sequence[float]) -> tuple[float, float]:
    low, high = float(np.min(values)), float(np.max(values))
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return (min(0.0, low) if panel.zero else low - margin), high + margin


def _to_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    # Groups are numbered alike in every figure; nothing refers to them, and a page must not repeat an id.
    return re.sub(r'<g id="[^"]*">', "<g>", text[text.index("<svg") :])
