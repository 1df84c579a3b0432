"""Evaluations and comparisons as tables on the terminal, and a comparison as CSV.

What lives here: columns and rounding. What does not: any figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

from rich.console import Console
from rich.table import Table

from boxmed_ray.evaluate.comparison import Difference
from boxmed_ray.evaluate.csv_text import csv_text
from boxmed_ray.evaluate.evaluation import Evaluation, FigureValue
from boxmed_ray.evaluate.verdict import p_words

Beside = Mapping[str, Mapping[str, float]]
"""Figure of grounding → baseline → value."""
_WIDE = 200
"""Columns where the output is no terminal: a file or a pipe has no width, and cut lines cannot be read again."""


def show_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """One table a kind of samples, then what is missing and how to get it."""
    console = console or _console()
    kinds = {"Grounding": evaluation.grounding, "Reasoning": evaluation.concepts, "Reports": evaluation.reports}
    for title, figures in kinds.items():
        if figures:
            console.print(_figures_table(f"{title}: {evaluation.name}", figures))
    _show_missing(console, evaluation.missing)


def baselines_beside(first: Evaluation, second: Evaluation) -> dict[str, dict[str, float]]:
    """Baselines of both sides; those of the first where both have one: they are of the same samples."""
    figures = {**second.grounding, **first.grounding}
    sides = [{name: f.baselines for name, f in each.grounding.items()} for each in (second, first)]
    return {name: {**sides[0].get(name, {}), **sides[1].get(name, {})} for name in figures}


def baseline_names(beside: Beside) -> list[str]:
    """In the order in which they first come."""
    return list(dict.fromkeys(name for values in beside.values() for name in values))


def show_comparison(
    first: str,
    second: str,
    found: Sequence[Difference],
    missing: Mapping[str, str],
    beside: Beside,
    console: Console | None = None,
) -> None:
    """One table; what is missing on a side below it."""
    console = console or _console()
    tests = len({(each.kind, each.test) for each in found if each.p is not None})
    table = Table(
        title=f"Is {first} better than {second}? One-tailed Wilcoxon signed-rank, Holm over {tests} tests; "
        "intervals: paired bootstrap by study, 95 %",
        title_justify="left",
    )
    names = baseline_names(beside)
    words = [name.replace("_", " ") for name in names]
    for heading in (
        "figure",
        first,
        second,
        "difference",
        "interval",
        *words,
        "better is",
        "tested on",
        "p",
        "p (Holm)",
    ):
        table.add_column(heading, justify="left" if heading in ("figure", "better is", "tested on") else "right")
    for each in found:
        table.add_row(
            f"{each.kind}/{each.name}",
            _number(each.first),
            _number(each.second),
            f"{each.first - each.second:+.4f}",
            f"{_number(each.low)} … {_number(each.high)}",
            *("" if value is None else _number(value) for value in _beside(each, beside, names)),
            each.better,
            each.test or "no value per sample",
            "" if each.p is None else bare_p(each.p),
            "" if each.p_holm is None else bare_p(each.p_holm),
        )
    console.print(table)
    _show_missing(console, missing)


def comparison_csv(found: Sequence[Difference], beside: Beside) -> str:
    """The comparison as CSV, one row a figure, with its variant and a column for each baseline."""
    names = baseline_names(beside)
    rows = [[*asdict(each).values(), *_beside(each, beside, names)] for each in found]
    return csv_text([[*(each.name for each in fields(Difference)), *names], *rows])


def _beside(each: Difference, beside: Beside, names: Sequence[str]) -> list[float | None]:
    values = beside.get(each.name, {}) if each.kind == "grounding" else {}
    return [values.get(name) for name in names]


def _figures_table(title: str, figures: Mapping[str, FigureValue]) -> Table:
    names = sorted({name for figure in figures.values() for name in figure.baselines})
    table = Table(title=title, title_justify="left")
    table.add_column("figure", no_wrap=True)
    for heading in ("value", "95 % interval", *(name.replace("_", " ") for name in names), "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for name, figure in figures.items():
        table.add_row(
            name + (" ↓" if figure.better == "less" else ""),
            _number(figure.value),
            f"{_number(figure.low)} … {_number(figure.high)}",
            *(_number(figure.baselines.get(baseline)) for baseline in names),
            str(figure.n),
            figure.variant,
        )
    return table


def _show_missing(console: Console, missing: Mapping[str, str]) -> None:
    if missing:
        console.print("Not measured, which is not 0:")
    for name, remedy in missing.items():
        console.print(f"  {name}: {remedy}", highlight=False, markup=False, soft_wrap=True)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def bare_p(p: float) -> str:
    """A p value without its name; in one piece."""
    return p_words(p).removeprefix("p = ").removeprefix("p ")
