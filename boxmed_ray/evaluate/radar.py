"""A radar chart as inline SVG: one polygon a model over several figures.

What lives here: which figures, and the geometry. What does not: the pages that show it (evaluation_page.py,
comparison_page.py). Lines are told apart by their dashes too, so that the chart can be read on paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from boxmed_ray.evaluate.csv_text import csv_text
from boxmed_ray.evaluate.report_figures import score_kind

RADAR: Final[Mapping[str, str]] = {
    "mean_iou": "mean IoU",
    "share_50": "IoU ≥ .5",
    "soft_f1": "soft-F1",
    "chain_f1": "chain F1",
    "bleu_4": "BLEU-4",
    "meteor_15": "METEOR",
    "meteor": "METEOR (NLTK)",
    "rouge_l": "ROUGE-L",
    "chexpert_f1_macro": "CheXpert F1",
    "radgraph": "RadGraph F1",
    "green": "GREEN",
    "gema": "GEMA",
}
"""Figures in [0, 1] of which more is better → axis."""

COLOURS: Final = ("#12436d", "#b4520e")
_DASHES: Final = ("", "5 3")
_RADIUS, _WIDTH, _HEIGHT = 100.0, 420.0, 290.0
_RINGS: Final = (0.25, 0.5, 0.75, 1.0)


def radar_axes(models: Sequence[Mapping[str, float | None]]) -> dict[str, list[float | None]]:
    """Words of an axis → value of each model, for the figures of RADAR that one of them has.

    Args:
        models: figure → value of each.
    """
    kinds = [{score_kind(name): value for name, value in values.items()} for values in models]
    found = {words: [values.get(name) for values in kinds] for name, words in RADAR.items()}
    return {words: values for words, values in found.items() if any(value is not None for value in values)}


def radar_svg(axes: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> str:
    """An ``<svg>`` element; empty for less than three axes.

    Args:
        axes: words of an axis → value of each model in [0, 1], the centre being 0; None is drawn at the centre.
        names: of the models, two at most, for the description.
    """
    if len(axes) < 3:
        return ""
    rings = "".join(
        f'<polygon points="{_points([ring] * len(axes))}" fill="none" stroke="#c9ccd1" stroke-width="0.6"/>'
        for ring in _RINGS
    )
    words = "".join(_word(i, len(axes), text) for i, text in enumerate(axes))
    shapes = "".join(
        f'<polygon points="{_points([values[model] or 0.0 for values in axes.values()])}" fill="{COLOURS[model]}" '
        f'fill-opacity="0.12" stroke="{COLOURS[model]}" stroke-width="1.8" stroke-dasharray="{_DASHES[model]}"/>'
        for model in range(len(names))
    )
    described = escape("; ".join(f"{text} {_said(values)}" for text, values in axes.items()), quote=True)
    return (
        f'<svg viewBox="{-_WIDTH / 2:g} {-_HEIGHT / 2:g} {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{described}">'
        f"{rings}{shapes}{words}</svg>"
    )


def radar_csv(axes: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> str:
    """A line an axis, a column a model."""
    return csv_text([["axis", *names], *([words, *values] for words, values in axes.items())])


def _corner(i: int, count: int, share: float) -> tuple[float, float]:
    angle = 2 * math.pi * i / count - math.pi / 2
    return share * _RADIUS * math.cos(angle), share * _RADIUS * math.sin(angle)


def _points(shares: Sequence[float]) -> str:
    corners = (_corner(i, len(shares), min(1.0, max(0.0, share))) for i, share in enumerate(shares))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def _word(i: int, count: int, text: str) -> str:
    x, y = _corner(i, count, 1.1)
    anchor = "middle" if abs(x) < 1 else "start" if x > 0 else "end"
    return f'<text x="{x:.1f}" y="{y + 4:.1f}" font-size="11" text-anchor="{anchor}">{escape(text)}</text>'


def _said(values: Sequence[float | None]) -> str:
    return " and ".join("none" if value is None else f"{value:.2f}" for value in values)
