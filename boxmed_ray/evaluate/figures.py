"""Figures of an evaluation, and their bootstrap: a number with its definition, computed anew for any choice of samples.

What lives here: what a figure is, and resampling by study. What does not: any metric (grounding_figures.py,
report_figures.py, label_figures.py), files, and the comparison of two models (comparison.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Rows = NDArray[np.intp]
Statistic = Callable[[Rows], float]
"""Rows of samples, repeats counted → the figure over them; NaN where it is not defined."""

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of an evaluation.

    Attributes:
        name: as files and tables have it.
        variant: tokenisation, pooling and decoding: all that must be the same for two numbers to compare.
        statistic: computes it.
        column: the value of each sample that a signed-rank test takes for it; None where it has none.
        sign: -1 where less is better.
    """

    name: str
    variant: str
    statistic: Statistic
    column: str | None
    sign: Literal[1, -1] = 1


@dataclass(frozen=True, slots=True)
class FigureSet:
    """All figures over one kind of samples.

    Attributes:
        studies: study of each sample; samples of one study are drawn together.
        columns: name → value of each sample, NaN where a sample has none (a denied finding has no IoU to count).
        figures: over these samples.
    """

    studies: Sequence[str]
    columns: Mapping[str, Values]
    figures: Sequence[Figure]

    def values(self) -> dict[str, float]:
        """Each figure over all samples."""
        rows = np.arange(len(self.studies))
        return {figure.name: figure.statistic(rows) for figure in self.figures}


def mean_figure(
    name: str, variant: str, columns: Mapping[str, Values], column: str, sign: Literal[1, -1] = 1
) -> Figure:
    """The mean of a column over the samples that have a value."""
    values = columns[column]

    def mean(rows: Rows) -> float:
        chosen = values[rows]
        known = ~np.isnan(chosen)
        return float(chosen[known].mean()) if known.any() else float("nan")

    return Figure(name, variant, mean, column, sign)


def study_resamples(studies: Sequence[str], count: int, seed: int = 0) -> list[Rows]:
    """``count`` bootstrap choices of rows: as many studies as there are, with repeats, each with all its samples.

    Findings of one image share its difficulty, so that drawing them one by one would make intervals too narrow.
    """
    rows_of: dict[str, list[int]] = {}
    for row, study in enumerate(studies):
        rows_of.setdefault(study, []).append(row)
    groups = [np.array(rows, dtype=np.intp) for rows in rows_of.values()]
    rng = np.random.default_rng(seed)
    return [np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]) for _ in range(count)]


def percentile_interval(draws: Sequence[float]) -> tuple[float, float]:
    """Bounds of the middle ``LEVEL`` of the draws; those that are not defined (NaN) are left out."""
    known = np.array([draw for draw in draws if not np.isnan(draw)])
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
