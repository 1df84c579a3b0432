"""NIH ChestX-ray14 as published: ``BBox_List_2017.csv``, ``Data_Entry_2017_v2020.csv`` and the images.

What lives here: the layout of those files, boxes from the published 1024 px grid to the stored image,
and a report composed of the labels. What does not: what a label means (concepts.py).

The data set has no reports. One is composed: a sentence per label; the eight labels that have boxes
are denied in images labelled No Finding and nowhere else, because the labels are not exhaustive.
Source: Wang et al., CVPR 2017; NIH Clinical Center.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boxmed_ray.data.concepts import NIH_DENIALS, NIH_LABELS, region_of_box
from boxmed_ray.data.readers import Item, SkippedStudy, locate, split_by_patient
from boxmed_ray.data.readers.boxes import finite
from boxmed_ray.data.readers.files import DataFolder, stored_size
from boxmed_ray.data.readers.tables import Row, read_cells, read_table
from boxmed_ray.data.study import Box, DataError, Finding
from rewards.categories import NO_FINDING

SOURCE: Final = "nih-cxr14"
GRID: Final = 1024.0
"""Side of the published PNG files, in whose pixels the boxes are given."""
BOX_FILE: Final = "BBox_List_2017.csv"
ENTRY_FILE: Final = "Data_Entry_2017_v2020.csv"
_BOX_NAME: Final = r"BBox_List_2017(?:_Official_NIH)?\.csv"
_ENTRY_NAMES: Final = (r"Data_Entry_2017_v2020\.csv", r"Data_Entry_2017\.csv")
_BOX_COLUMNS: Final = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")
_ENTRY_COLUMNS: Final = ("Image Index", "Patient ID", "Finding Labels")


@dataclass(frozen=True, slots=True)
class _BoxRow:
    """One line of the box list; the box is xyxy on the published grid."""

    where: str
    label: str
    box: Box


def read_nih(root: Path, test_share: float) -> Iterator[Item]:
    """Every image of the entry list, with its boxes.

    Args:
        root: the folder with the two CSV files; images lie anywhere below it and are matched by
            stem, whatever their format and size.
        test_share: share of patients held out.

    Raises:
        DataError: a file, a column or all images are missing.
    """
    folder = DataFolder(root)
    drawn, entries = folder.need(BOX_FILE, _BOX_NAME), folder.need(ENTRY_FILE, *_ENTRY_NAMES)
    boxes, problems = _read_boxes(drawn)
    if not folder.has_images:
        raise DataError(f"{root}: no image below it; unpack the NIH image archives there")
    listed = set()
    for row in read_table(entries, _ENTRY_COLUMNS):
        stem = _stem(row.get("Image Index"), row.where)
        listed.add(stem)
        problem = problems.get(stem)
        yield SkippedStudy(stem, problem) if problem else _study(row, stem, boxes[stem], folder, test_share)
    for stem in sorted((set(boxes) | set(problems)) - listed):
        where = problems.get(stem) or boxes[stem][0].where
        yield SkippedStudy(stem, f"{where}: column 'Image Index' = {stem!r}: not in {entries.name}; add its line there")


def _stem(index: str | None, where: str) -> str:
    return Path(index).stem if index else where


def _study(row: Row, stem: str, drawn: list[_BoxRow], folder: DataFolder, test_share: float) -> Item:
    try:
        index, patient, written = (row.text(column) for column in _ENTRY_COLUMNS)
        labels = [label.strip() for label in written.split("|")]
        for label in labels:
            _check_label(label, row.where, "Finding Labels", allowed=(*NIH_LABELS, NO_FINDING))
        if NO_FINDING in labels and (len(labels) > 1 or drawn):
            raise DataError(
                f"{row.where}: column 'Finding Labels' = {written!r}: No Finding beside a finding "
                f"or a box; correct the labels or the lines of {BOX_FILE}"
            )
        image = folder.image(stem, f"{row.where}: column 'Image Index' = {index!r}")
        width, height = stored_size(image, row.where)
    except DataError as error:
        return SkippedStudy(stem, str(error))
    findings = _findings(labels, drawn, width, height)
    return locate(
        row.where,
        {
            "id": stem,
            "patient_id": patient,
            "image": image,
            "width": width,
            "height": height,
            "view": row.get("View Position"),
            "report": " ".join(finding.phrase for finding in findings),
            "findings": findings,
            "split": split_by_patient(SOURCE, patient, test_share),
            "source": SOURCE,
        },
    )


def _findings(labels: list[str], rows: list[_BoxRow], width: int, height: int) -> tuple[Finding, ...]:
    """One finding a label: those with boxes first, as listed, then those that have a label only."""
    if labels == [NO_FINDING]:
        return NIH_DENIALS
    boxes: dict[str, list[Box]] = defaultdict(list)
    for row in rows:
        boxes[NIH_LABELS[row.label].phrase].append(_to_pixels(row.box, width, height))
    findings = {}
    for label in [row.label for row in rows] + labels:
        concept = NIH_LABELS[label]
        drawn = tuple(boxes[concept.phrase])
        regions: set[str | None] = {concept.region or region_of_box(box, width, height) for box in drawn} or {
            concept.region
        }
        findings[concept.phrase] = Finding(
            phrase=concept.phrase,
            boxes=drawn,
            disease=concept.disease,
            region=regions.pop() if len(regions) == 1 else None,
        )
    return tuple(findings.values())


def _to_pixels(box: Box, width: int, height: int) -> Box:
    across, down = width / GRID, height / GRID
    return Box(box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down)


def _check_label(label: str, where: str, column: str, allowed: tuple[str, ...]) -> None:
    if label not in allowed:
        known = ", ".join(allowed)
        raise DataError(f"{where}: column {column!r} = {label!r}: not a label of NIH ChestX-ray14; use one of: {known}")


def _read_boxes(path: Path) -> tuple[dict[str, list[_BoxRow]], dict[str, str]]:
    """Boxes by image stem, and the first problem of each image that has one."""
    lines = read_cells(path)
    columns = _box_columns(next(lines, ("", []))[1], path)
    boxes: dict[str, list[_BoxRow]] = defaultdict(list)
    problems: dict[str, str] = {}
    for where, line in lines:
        cells = [line[column].strip() if column < len(line) else "" for column in columns]
        stem = _stem(cells[0], where)
        try:
            if not all(cells):
                raise DataError(f"{where}: {','.join(line)!r}: needs image, label, x, y, w, h; complete the line")
            boxes[stem].append(_box_row(where, cells))
        except DataError as error:
            problems.setdefault(stem, str(error))
    return boxes, problems


def _box_columns(header: list[str], path: Path) -> list[int]:
    """Where image, label, x, y, w and h stand.

    The header names one column ``Bbox [x,y,w,h]`` unquoted, which makes it four, and ends in three commas. Tools that
    rewrite the file quote it, or call the four x, y, w, h.
    """
    names = [_plain(cell) for cell in header]
    try:
        first = next(number for number, name in enumerate(names) if name in {"x", "bboxx", "bboxx,y,w,h"})
        others = range(first + 1, first + 4) if "," in names[first] else [names.index(name) for name in "ywh"]
        return [names.index("imageindex"), names.index("findinglabel"), first, *others]
    except (StopIteration, ValueError):
        raise DataError(
            f"{path}:1: the header is {','.join(header)!r}, not {','.join(_BOX_COLUMNS)!r}; "
            "use the file as NIH publishes it"
        ) from None


def _box_row(where: str, cells: list[str]) -> _BoxRow:
    label = cells[1]
    _check_label(label, where, "Finding Label", allowed=tuple(NIH_LABELS))
    numbers = zip("xywh", cells[2:], strict=True)
    x, y, w, h = (finite(cell, f"{where}: column {column!r}") for column, cell in numbers)
    if not (w > 0 and h > 0):
        raise DataError(f"{where}: columns 'w', 'h' = {w:g}, {h:g}: the box is inverted or empty; both must be above 0")
    if not (x >= 0 and y >= 0 and x + w <= GRID and y + h <= GRID):
        raise DataError(
            f"{where}: columns 'x', 'y', 'w', 'h' = {x:g}, {y:g}, {w:g}, {h:g}: the box leaves the "
            f"{GRID:g}x{GRID:g} grid of the published images; correct the line"
        )
    return _BoxRow(where, label, Box(x, y, x + w, y + h))


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character not in '"[] ')
