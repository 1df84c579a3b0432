"""What is in data sets, counted by split: tables as CSV, and plots of them.

What lives here: counting, and writing both. What does not: reading (sources.py), judging (checks.py).
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from boxmed_ray.data.study import Study

SPLITS: Final = ("train", "val", "test")
_AREAS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Upper ends of the classes of a box's share of its image."""
_WORDS: Final = 20
"""Words of a report in one class."""


@dataclass
class Table:
    """Counts by row and split; ``name`` is that of its files, ``row`` what a row is."""

    name: str
    row: str
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, row: str, split: str, count: int = 1) -> None:
        """Count."""
        self.counts.setdefault(row, Counter())[split] += count

    def lines(self, splits: Sequence[str]) -> list[list[str]]:
        """Heading and rows, with a total, as text."""
        heading = [self.row, *splits, "all"]
        body = [[row, *(str(n[s]) for s in splits), str(n.total())] for row, n in self.counts.items()]
        return [heading, *body]


@dataclass
class Stats:
    """The tables, and the splits that have studies."""

    tables: list[Table]
    splits: Sequence[str]


def count_studies(studies: Iterable[Study]) -> Stats:
    """All tables; of the studies only the names of patients are held."""
    totals, sources, views = Table("totals", ""), Table("sources", "data set"), Table("views", "view")
    diseases, regions = (
        Table("diseases", "disease, findings with boxes"),
        Table("regions", "region, findings with boxes"),
    )
    boxes, areas, words = Table("boxes", "boxes of a study"), Table("areas", "box, % of image"), Table("words", "words")
    patients: dict[str, set[tuple[str, str]]] = {}
    for row in ("studies", "patients", "reports", "findings", "boxes"):
        totals.counts[row] = Counter()
    for study in studies:
        split = study.split
        patients.setdefault(split, set()).add((study.source, study.patient_id))
        totals.add("studies", split)
        totals.add("reports", split, int(study.report is not None))
        totals.add("findings", split, len(study.findings))
        sources.add(study.source, split)
        views.add(study.view or "unknown", split)
        if study.report is not None:
            low = len(study.report.split()) // _WORDS * _WORDS
            words.add(f"{low}–{low + _WORDS - 1}", split)
        for finding in study.findings:
            if finding.boxes:
                diseases.add(finding.disease or "none", split)
                regions.add(finding.region or "none", split)
            for box in finding.boxes:
                share = (box.x2 - box.x1) * (box.y2 - box.y1) / (study.width * study.height)
                areas.add(_area_class(share), split)
        count = sum(len(finding.boxes) for finding in study.findings)
        totals.add("boxes", split, count)
        boxes.add(str(count), split)
    for name, members in patients.items():
        totals.add("patients", name, len(members))
    for table in (diseases, regions, sources, views):
        table.counts = dict(sorted(table.counts.items(), key=lambda item: (-item[1].total(), item[0])))
    for table in (boxes, areas, words):
        table.counts = dict(sorted(table.counts.items(), key=lambda item: _first_number(item[0])))
    tables = [totals, sources, views, diseases, regions, boxes, areas, words]
    return Stats(tables, [name for name in SPLITS if name in patients])


def write_stats(stats: Stats, folder: Path, plots: str) -> list[Path]:
    """Each table as CSV, and a plot of it beside it.

    Args:
        stats: counted.
        folder: made if need be.
        plots: "png" or "svg".
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for table in stats.tables:
        path = folder / f"{table.name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table.lines(stats.splits))
        written.append(path)
        if table.counts:
            written.append(_plot(table, stats.splits, path.with_suffix(f".{plots}")))
    return written


def _plot(table: Table, splits: Sequence[str], path: Path) -> Path:
    """Stacked bars, one each row."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = list(table.counts)
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ends = [0] * len(rows)
    for split in splits:
        counts = [table.counts[row][split] for row in rows]
        axes.barh(range(len(rows)), counts, left=ends, label=split)
        ends = [end + count for end, count in zip(ends, counts, strict=True)]
    axes.set_yticks(range(len(rows)), labels=rows, parse_math=False)  # a name with $ in it is no formula
    axes.invert_yaxis()
    axes.set_title(table.row or table.name, loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    # No date and no random ids: the same data give the same file.
    options: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
    with rc_context({"svg.hashsalt": "boxmed"}):
        figure.savefig(path, dpi=120, **options)
    return path


def _area_class(share: float) -> str:
    """The class of a box's share of its image, in per cent."""
    number = next((n for n, end in enumerate(_AREAS) if share <= end), len(_AREAS) - 1)
    low = _AREAS[number - 1] if number else 0.0
    return f"{100 * low:g}–{100 * _AREAS[number]:g}"


def _first_number(text: str) -> float:
    number = text.partition("–")[0]
    return float(number) if number.replace(".", "", 1).isdigit() else math.inf
