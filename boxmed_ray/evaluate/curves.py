"""Curves of a run as inline SVG.

What lives here: which curves a report shows and how one is drawn. What does not: the page around them.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

_RAW, _SMOOTH = "#9db8d2", "#12436d"
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


def draw_curves(metrics: Sequence[Mapping[str, Any]], panels: Sequence[Panel] = PANELS) -> list[Curve]:
    """Every panel of which the metrics hold at least two points, in order."""
    curves = []
    for panel in panels:
        for key in panel.keys:
            points = series(metrics, panel.stage, key)
            if len(points) > 1:
                curves.append(_draw(panel, points))
                break
    return curves


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


def _draw(panel: Panel, points: Sequence[tuple[int, float]]) -> Curve:
    steps, values = zip(*points, strict=True)
    smooth = running_mean(values, max(3, len(values) // 10))
    # A salt of its own keeps the ids of one figure apart from those of the next in the same page.
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": panel.title, "font.size": 9, "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.plot(steps, values, color=_RAW, linewidth=1)
        axes.plot(steps, smooth, color=_SMOOTH, linewidth=2)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_ylim(*_limits(panel, values))
        return Curve(panel.title, _to_svg(figure), f"{smooth[0]:#.3g} → {smooth[-1]:#.3g} in {len(values)} steps")


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
