"""NIH ChestX-ray14 as published: ``BBox_List_2017.csv``, ``Data_Entry_2017_v2020.csv`` and the images.

What lives here: the layout of those files, boxes from the published 1024 px grid to the stored image,
and a report composed of the labels. What does not: what a label means (concepts.py).

The data set has no reports. One is composed: a sentence per label; the eight labels that have boxes
are denied in images labelled No Finding and nowhere else, because the labels are not exhaustive.
Source: Wang et al., CVPR 2017; NIH Clinical Center.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boxmed_ray.data.concepts import NIH_DENIALS, NIH_LABELS, region_of_box
from boxmed_ray.data.readers import Item, SkippedStudy, locate, split_by_patient
from boxmed_ray.data.readers.files import DataFolder, stored_size
from boxmed_ray.data.study import Box, DataError, Finding
from rewards.categories import NO_FINDING

SOURCE: Final = "nih-cxr14"
GRID: Final = 1024.0
"""Side of the published PNG files, in whose pixels the boxes are given."""
BOX_FILE: Final = "BBox_List_2017.csv"
ENTRY_FILES: Final = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_BOX_COLUMNS: Final = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")
_ENTRY_COLUMNS: Final = ("Image Index", "Finding Labels", "Patient ID", "View Position")


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
    if not root.is_dir():
        raise DataError(f"data.root = {str(root)!r}: no such folder; give the folder that holds {BOX_FILE}")
    boxes, problems = _read_boxes(root / BOX_FILE)
    folder = DataFolder(root)
    if not folder.has_images:
        raise DataError(f"{root}: no image below it; unpack the NIH image archives there")
    listed = set()
    for where, row in _read_entries(root):
        stem = Path(row["Image Index"]).stem
        listed.add(stem)
        problem = problems.get(stem)
        yield SkippedStudy(stem, problem) if problem else _study(where, row, boxes[stem], folder, test_share)
    for stem in sorted((set(boxes) | set(problems)) - listed):
        where = problems.get(stem) or boxes[stem][0].where
        yield SkippedStudy(
            stem, f"{where}: column 'Image Index' = {stem!r}: not in {ENTRY_FILES[0]}; add its line there"
        )


def _study(
    where: str,
    row: dict[str, str],
    rows: list[_BoxRow],
    folder: DataFolder,
    test_share: float,
) -> Item:
    stem, patient = Path(row["Image Index"]).stem, row["Patient ID"].strip()
    labels = [label.strip() for label in row["Finding Labels"].split("|")]
    try:
        if not patient:
            raise DataError(f"{where}: column 'Patient ID' = '': must not be empty; splits are by patient")
        for label in labels:
            _check_label(label, where, "Finding Labels", allowed=(*NIH_LABELS, NO_FINDING))
        if NO_FINDING in labels and (len(labels) > 1 or rows):
            raise DataError(
                f"{where}: column 'Finding Labels' = {row['Finding Labels']!r}: No Finding beside a finding "
                f"or a box; correct the labels or the lines of {BOX_FILE}"
            )
        image = folder.image(stem, f"{where}: column 'Image Index' = {row['Image Index']!r}")
        width, height = stored_size(image, where)
    except DataError as error:
        return SkippedStudy(stem, str(error))
    findings = _findings(labels, rows, width, height)
    return locate(
        where,
        {
            "id": stem,
            "patient_id": patient,
            "image": image,
            "width": width,
            "height": height,
            "view": row["View Position"].strip() or None,
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
    lines = _csv_lines(path)
    _, header = next(lines, (1, []))
    # The header names one column "Bbox [x,y,w,h]" unquoted and ends in three commas; tools that
    # rewrite the file quote it.
    if _plain(",".join(header)).rstrip(",") != _plain(",".join(_BOX_COLUMNS)):
        raise DataError(
            f"{path}:1: the header is {','.join(header)!r}, not {','.join(_BOX_COLUMNS)!r}; "
            "use the file as NIH publishes it"
        )
    boxes: dict[str, list[_BoxRow]] = defaultdict(list)
    problems: dict[str, str] = {}
    for number, cells in lines:
        where, stem = f"{path}:{number}", Path(cells[0]).stem
        try:
            boxes[stem].append(_box_row(where, cells))
        except DataError as error:
            problems.setdefault(stem, str(error))
    return boxes, problems


def _box_row(where: str, cells: list[str]) -> _BoxRow:
    if len([cell for cell in cells if cell.strip()]) < len(_BOX_COLUMNS):
        raise DataError(f"{where}: {','.join(cells)!r}: needs image, label, x, y, w, h; complete or remove the line")
    label = cells[1].strip()
    _check_label(label, where, "Finding Label", allowed=tuple(NIH_LABELS))
    numbers = []
    for column, cell in zip("xywh", cells[2:6], strict=True):
        try:
            numbers.append(float(cell))
        except ValueError:
            raise DataError(f"{where}: column {column!r} = {cell!r}: not a number; correct the line") from None
    x, y, w, h = numbers
    if not (w > 0 and h > 0):
        raise DataError(f"{where}: columns 'w', 'h' = {w:g}, {h:g}: the box is inverted or empty; both must be above 0")
    if not (x >= 0 and y >= 0 and x + w <= GRID and y + h <= GRID):
        raise DataError(
            f"{where}: columns 'x', 'y', 'w', 'h' = {x:g}, {y:g}, {w:g}, {h:g}: the box leaves the "
            f"{GRID:g}x{GRID:g} grid of the published images; correct the line"
        )
    return _BoxRow(where, label, Box(x, y, x + w, y + h))


def _read_entries(root: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Lines of the entry list by column name, with where they are."""
    path = next((root / name for name in ENTRY_FILES if (root / name).is_file()), root / ENTRY_FILES[0])
    lines = _csv_lines(path)
    _, header = next(lines, (1, []))
    missing = [column for column in _ENTRY_COLUMNS if column not in header]
    if missing:
        raise DataError(f"{path}:1: column {missing[0]!r} is missing; use the file as NIH publishes it")
    for number, cells in lines:
        row = dict(zip(header, cells, strict=False))
        short = [column for column in _ENTRY_COLUMNS if column not in row]
        if short:
            raise DataError(f"{path}:{number}: {','.join(cells)!r}: column {short[0]!r} is missing; complete the line")
        yield f"{path}:{number}", row


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers (from 1) and cells of the lines that are not blank."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; data.root must hold the official NIH files")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}:{reader.line_num + 1}: not readable as UTF-8 CSV ({error}); copy it again"
            ) from error


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character not in '"[] ')
