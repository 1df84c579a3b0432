"""Is one evaluated model better than another? Paired tests and intervals over the same samples.

What lives here: pairing, the one-tailed Wilcoxon signed-rank test of each per-sample value, Holm's correction over all
of them, and paired bootstrap intervals of each difference. What does not: the figures, and files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from boxmed_ray.config import ConfigError
from boxmed_ray.evaluate.evaluation import Samples, figures_of
from boxmed_ray.evaluate.figures import FigureSet, percentile_interval, study_resamples
from boxmed_ray.evaluate.significance import one_tailed_wilcoxon

Key = TypeVar("Key")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both sides.

    Attributes:
        kind: ``grounding``, ``concepts`` or ``reports``.
        name: of the figure.
        variant: its definition.
        better: ``more`` or ``less``.
        first, second: values.
        low, high: 95 % interval of first minus second, paired, by study.
        test: per-sample value that was tested; None where the figure has none, and no p.
        p: one-tailed, of the null hypothesis that the first is not better.
        p_holm: the same after Holm's correction over all tests of the comparison.
    """

    kind: str
    name: str
    variant: str
    better: str
    first: float
    second: float
    low: float
    high: float
    test: str | None
    p: float | None
    p_holm: float | None


def compare_samples(first: Samples, second: Samples, resamples: int = 1000, seed: int = 0) -> list[Difference]:
    """Every figure that both sides have.

    Raises:
        ConfigError: the two were not measured on the same samples.
    """
    check_same_samples(first, second)
    others = figures_of(in_order_of(second, first))
    pairs = [(kind, ours, others[kind]) for kind, ours in figures_of(first).items()]
    p_values = {(kind, column): p for kind, ours, theirs in pairs for column, p in _tests(ours, theirs).items()}
    corrected = holm(p_values)
    found = []
    for kind, ours, theirs in pairs:
        draws = study_resamples(ours.studies, resamples, seed)
        values, their_values = ours.values(), theirs.values()
        by_name = {figure.name: figure for figure in theirs.figures}
        for figure in ours.figures:
            if figure.name not in by_name:
                continue
            other, key = by_name[figure.name], (kind, figure.column or "")
            low, high = percentile_interval([figure.statistic(rows) - other.statistic(rows) for rows in draws])
            found.append(
                Difference(
                    kind=kind,
                    name=figure.name,
                    variant=figure.variant,
                    better="more" if figure.sign > 0 else "less",
                    first=values[figure.name],
                    second=their_values[figure.name],
                    low=low,
                    high=high,
                    test=figure.column if key in p_values else None,
                    p=p_values.get(key),
                    p_holm=corrected.get(key),
                )
            )
    return found


def check_same_samples(first: Samples, second: Samples) -> None:
    """Raises ConfigError, with one message, unless both sides hold the same images, questions and truth."""
    names = first.digests.keys() | second.digests.keys()
    apart = sorted(name for name in names if first.digests.get(name) != second.digests.get(name))
    if not names:
        raise ConfigError("the evaluations hold no samples; there is nothing to compare")
    if apart:
        lone = sum((name in first.digests) != (name in second.digests) for name in apart)
        raise ConfigError(
            f"the evaluations were not made on the same samples: of {len(names)}, {lone} are in one only and "
            f"{len(apart) - lone} differ in image, question or truth ({', '.join(map(_without_words, apart[:_SHOWN]))}"
            f"{', …' if len(apart) > _SHOWN else ''}); evaluate both on one data set with the same evaluate.images"
        )


def _without_words(name: str) -> str:
    """A sample's name without its phrase: words of a report, which are a patient's, are in no message."""
    return name.partition("/ground/")[0]


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's step-down correction (1979): the family-wise error over all tests is at most the level."""
    corrected: dict[Key, float] = {}
    largest = 0.0
    for done, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[key]))
        corrected[key] = largest
    return corrected


def in_order_of(samples: Samples, order: Samples) -> Samples:
    """The same samples (``check_same_samples``) in the order of others."""
    prompts = {record.prompt_id: record for record in samples.grounding}
    reports = {report.study_id: report for report in samples.reports}
    reasoning = {record.study_id: record for record in samples.concepts}
    return Samples(
        [prompts[record.prompt_id] for record in order.grounding],
        [reports[report.study_id] for report in order.reports],
        order.digests,
        concepts=[reasoning[record.study_id] for record in order.concepts],
    )


def _tests(ours: FigureSet, theirs: FigureSet) -> dict[str, float]:
    """Column → p, for the columns that some figure is judged by on both sides."""
    signs = {figure.column: figure.sign for figure in ours.figures if figure.column in theirs.columns}
    found = {}
    for column, sign in signs.items():
        if column is None:
            continue
        first, second = ours.columns[column], theirs.columns[column]
        known = np.flatnonzero(~np.isnan(first) & ~np.isnan(second))
        if len(known):
            better = {str(row): sign * float(first[row]) for row in known}
            worse = {str(row): sign * float(second[row]) for row in known}
            found[column] = one_tailed_wilcoxon(better, worse)
    return found
