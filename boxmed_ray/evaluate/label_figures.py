"""What generated reports say of the 14 CheXpert categories, against their references: accuracy, precision, recall, F1.

What lives here: counting and pooling. What does not: reading labels out of a report (rewards/text/labels.py,
rewards/chexbert.py).

Two poolings that papers do not always tell apart, each named:

- **positive class**: a category counts as asserted when its label is positive; uncertain, negative and not mentioned
  do not. *Micro* pools all categories; *macro* is the mean over the categories that either side asserts.
- **over label values**: each of the four values (positive, negative, uncertain, not mentioned) is a class over all
  categories; the mean over the values that either side has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from boxmed_ray.evaluate.figures import Figure, FigureSet, Rows, Values, mean_figure
from rewards.categories import CATEGORIES, Status

Labels = Mapping[str, Status]
"""Category → what a report says of it; a category that it does not mention is absent."""

_VALUES = (None, *Status)
_MEASURES: Mapping[str, Callable[[Values], Values]] = {
    "precision": lambda counts: _ratio(counts[0], counts[0] + counts[1]),
    "recall": lambda counts: _ratio(counts[0], counts[0] + counts[2]),
    "f1": lambda counts: _ratio(2 * counts[0], 2 * counts[0] + counts[1] + counts[2]),
}


def label_figures(
    prefix: str, labeller: str, references: Sequence[Labels], hypotheses: Sequence[Labels], studies: Sequence[str]
) -> FigureSet:
    """Ten figures.

    Args:
        prefix: of their names.
        labeller: who read the labels, for the variants.
        references: labels of each reference report.
        hypotheses: labels of each generated report.
        studies: study of each report.
    """
    true, said = _codes(references), _codes(hypotheses)
    by_category = _counts(true == _POSITIVE, said == _POSITIVE)
    by_value = np.stack([_counts(true == v, said == v).sum(axis=2) for v in range(len(_VALUES))], axis=2)
    columns = {
        f"{prefix}_accuracy": (true == said).mean(axis=1),
        f"{prefix}_f1": _of_one_report(by_category),
    }
    accuracy = mean_figure(
        f"{prefix}_accuracy", f"share of (report, category) with the same of four values, {labeller}", columns,
        f"{prefix}_accuracy",
    )  # fmt: skip
    figures = [accuracy]
    for measure in _MEASURES:
        for pooling, counts, words, column in (
            ("micro", by_category.sum(axis=2, keepdims=True), "positive class, pooled over 14 categories", "f1"),
            ("macro", by_category, "positive class, mean over the categories that either side asserts", "f1"),
            ("macro_values", by_value, "mean over the four label values, each pooled over 14 categories", "accuracy"),
        ):
            name = f"{prefix}_{measure}_{pooling}"
            figures.append(_pooled(name, f"{words}, {labeller}", measure, counts, f"{prefix}_{column}"))
    return FigureSet(studies, columns, figures)


def category_f1(references: Sequence[Labels], hypotheses: Sequence[Labels]) -> dict[str, float]:
    """Positive-class F1 of each category that either side asserts."""
    counts = _counts(_codes(references) == _POSITIVE, _codes(hypotheses) == _POSITIVE).sum(axis=0)
    f1 = _MEASURES["f1"](counts)
    return {name: float(f1[i]) for i, name in enumerate(CATEGORIES) if counts[:, i].any()}


def _codes(labels: Sequence[Labels]) -> NDArray[np.int8]:
    """(reports, 14): index in _VALUES."""
    rows = [[_VALUES.index(each.get(name)) for name in CATEGORIES] for each in labels]
    return np.array(rows, dtype=np.int8).reshape(-1, len(CATEGORIES))


_POSITIVE = _VALUES.index(Status.POSITIVE)


def _counts(true: NDArray[np.bool_], said: NDArray[np.bool_]) -> Values:
    """(reports, 3, classes): hits, false alarms, misses."""
    return np.stack([true & said, ~true & said, true & ~said], axis=1).astype(np.float64)


def _pooled(name: str, variant: str, measure: str, counts: Values, column: str) -> Figure:
    def statistic(rows: Rows) -> float:
        chosen = counts[rows].sum(axis=0)
        seen = chosen.any(axis=0)
        return float(_MEASURES[measure](chosen)[seen].mean()) if seen.any() else float("nan")

    return Figure(name, variant, statistic, column)


def _of_one_report(by_category: Values) -> Values:
    """Positive-class F1 of each report; 1 where neither side asserts anything."""
    counts = by_category.sum(axis=2).T
    return np.where(counts.any(axis=0), _MEASURES["f1"](counts), 1.0)


def _ratio(part: Values, whole: Values) -> Values:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
