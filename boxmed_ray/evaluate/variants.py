"""A table of variants of one model: each figure of each, starred where the reference is better beyond chance.

What lives here: the cells, pooling over seeds, and writing the table. What does not: training the variants
(ablation.py), the tests themselves (comparison.py).

Stars as arXiv 2504.18453 has them: one-tailed Wilcoxon signed-rank, * below .05 and ** below .01, of the null
hypothesis that the reference is not better than the variant. Here p is after Holm's correction over the whole table.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from boxmed_ray.evaluate.comparison import compare_samples, holm
from boxmed_ray.evaluate.evaluation import Evaluation, Samples, figures_of
from boxmed_ray.evaluate.report_figures import score_kind

COLUMNS: Mapping[str, str] = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "meteor_15": "METEOR",
    "meteor": "METEOR (NLTK)",
    "rouge_l": "ROUGE-L",
    "gema": "GEMA",
    "chexpert_f1_macro": "CheXpert F1",
    "green": "GREEN",
    "mean_iou": "mean IoU",
    "share_50": "IoU ≥ .5",
    "chain_f1": "chain F1",
    "chain_accuracy": "chain accuracy",
}
"""Figures of a table, as far as the evaluations have them → heading. CheXpert F1: positive class, macro, by rules."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one variant.

    Attributes:
        value: of the figure.
        low, high: 95 % interval of reference minus variant; None for the reference.
        p: one-tailed, that the reference is better; None for the reference, and where the figure has no test.
        p_holm: after Holm's correction over the table.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def stars(self) -> str:
        """By ``p_holm``."""
        if self.p_holm is None:
            return ""
        return "**" if self.p_holm < 0.01 else "*" if self.p_holm < 0.05 else ""


Row = dict[str, Cell]
"""Heading → cell."""


def pool_seeds(samples: Sequence[Samples]) -> Samples:
    """Samples of several seeds as those of one evaluation; a sample's name gets the number of its seed before it."""
    if len(samples) == 1:
        return samples[0]
    numbered = list(enumerate(samples))
    return Samples(
        grounding=[
            replace(r, prompt_id=f"{i}/{r.prompt_id}", study_id=f"{i}/{r.study_id}")
            for i, s in numbered
            for r in s.grounding
        ],
        reports=[replace(r, study_id=f"{i}/{r.study_id}") for i, s in numbered for r in s.reports],
        digests={_numbered(i, name): digest for i, s in numbered for name, digest in s.digests.items()},
        images={f"{i}/{study}": image for i, s in numbered for study, image in s.images.items()},
        concepts=[replace(r, study_id=f"{i}/{r.study_id}") for i, s in numbered for r in s.concepts],
    )


def variant_table(
    reference: Samples, variants: Mapping[str, Samples], name: str, resamples: int = 1000
) -> dict[str, Row]:
    """Variant → its row, the reference (under ``name``) last.

    Raises:
        ConfigError: a variant was measured on other samples.
    """
    cells: dict[tuple[str, str], Cell] = {}
    p_values: dict[tuple[str, str], float] = {}
    for variant, samples in variants.items():
        for found in compare_samples(reference, samples, resamples):
            heading = COLUMNS.get(score_kind(found.name))
            if heading is None:
                continue
            cells[variant, heading] = Cell(found.second, found.low, found.high, found.p)
            if found.p is not None and found.test is not None:
                p_values[variant, heading] = found.p
    corrected = holm(p_values)
    values = {figure: value for part in figures_of(reference).values() for figure, value in part.values().items()}
    own = {
        COLUMNS[score_kind(figure)]: Cell(value) for figure, value in values.items() if score_kind(figure) in COLUMNS
    }
    rows = {
        variant: {h: replace(c, p_holm=corrected.get((v, h))) for (v, h), c in cells.items() if v == variant}
        for variant in variants
    }
    return {**rows, name: own}


def baseline_rows(evaluations: Sequence[Evaluation]) -> dict[str, Row]:
    """Baseline → its row: what answers that never see the image reach, and people, over all seeds' prompts."""
    cells: dict[str, dict[str, list[tuple[float, int]]]] = {}
    for evaluation in evaluations:
        for name, figure in evaluation.grounding.items():
            for baseline, value in figure.baselines.items():
                if name in COLUMNS:
                    cells.setdefault(baseline, {}).setdefault(COLUMNS[name], []).append((value, figure.n))
    return {
        baseline.replace("_", " "): {
            heading: Cell(float(np.average([v for v, _ in pairs], weights=[n for _, n in pairs])))
            for heading, pairs in row.items()
        }
        for baseline, row in cells.items()
    }


def table_csv(rows: Mapping[str, Row]) -> str:
    """A line a cell: variant, figure, value, interval, p."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["variant", "figure", "value", "reference_minus_low", "reference_minus_high", "p", "p_holm"])
    for variant, row in rows.items():
        for heading, cell in row.items():
            numbers = (cell.value, cell.low, cell.high, cell.p, cell.p_holm)
            writer.writerow([variant, heading, *("" if n is None or math.isnan(n) else repr(n) for n in numbers)])
    return buffer.getvalue()


def table_markdown(rows: Mapping[str, Row]) -> str:
    """The table as papers print it."""
    headings = table_headings(rows)
    lines = [["", *headings], ["---", *("---:" for _ in headings)]]
    lines += [[variant, *table_words(row, headings)] for variant, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table_headings(rows: Mapping[str, Row]) -> list[str]:
    """Of the columns that some row has, in the order of COLUMNS."""
    known = {heading for row in rows.values() for heading in row}
    return [heading for heading in COLUMNS.values() if heading in known]


def table_words(row: Row, headings: Iterable[str]) -> list[str]:
    """Values with their stars; a dash where there is none."""
    cells = [row.get(heading) for heading in headings]
    return ["–" if cell is None or math.isnan(cell.value) else f"{cell.value:.3f}{cell.stars}" for cell in cells]


def _numbered(i: int, name: str) -> str:
    kind, _, own = name.partition(" ")
    return f"{kind} {i}/{own}"
