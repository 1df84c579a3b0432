"""LATTE-CXR as published: ``bbox_statement.csv`` and ``etbox_sentence.csv``, on images of MIMIC-CXR.

What lives here: those tables. What does not: images and studies (mimic_boxes.py). The first has boxes that
radiologists drew with the statements about them, the second boxes of what they looked at while they dictated a
sentence. Both are read where both are there; a table given as ``data.root`` is read alone, images beside it or below.
Source: Ghelichkhan and Tasdizen, PhysioNet 2025.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from boxmed_ray.data.labels import REFLACX, disease_of
from boxmed_ray.data.readers import Item
from boxmed_ray.data.readers.boxes import corner_text, corners
from boxmed_ray.data.readers.mimic_boxes import (
    ImageLines,
    MimicFolder,
    Statement,
    boxed_study,
    by_image,
    size_in,
    subject_in,
)
from boxmed_ray.data.readers.tables import Row, read_table, split_of
from boxmed_ray.data.report_text import clean_report
from boxmed_ray.data.study import Box, DataError

SOURCE: Final = "latte-cxr"
_OTHER_NAMES: Final = r"(?i:.*(?:latte|statement|sentence).*)\.csv"
_TEXTS: Final = ("statement", "sentence", "label_text", "phrase", "text")
_CORNERS: Final = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
)
_LISTS: Final = ("bbox", "box", "bounding_box")
_SIZES: Final = (("image_size_x", "image_size_y"), ("image_width", "image_height"), ("width", "height"))
_Line = tuple[str, str, DataError | None, ImageLines | None]


def read_latte_cxr(root: Path, test_share: float) -> Iterator[Item]:
    """Every image that a table says something about.

    Raises:
        DataError: there is neither table, or a column of one is missing.
    """
    folder = MimicFolder(root.parent if root.is_file() else root)
    names = r"bbox_statement\.csv", r"etbox_sentence\.csv"
    found = [root] if root.is_file() else [folder.find(name) for name in names]
    paths = [path for path in found if path] or [folder.need("bbox_statement.csv or etbox_sentence.csv", _OTHER_NAMES)]
    for image in by_image(_line(row) for path in paths for row in read_table(path, ("dicom_id",))):
        yield boxed_study(image, SOURCE, folder, test_share)


def _line(row: Row) -> _Line:
    dicom = row.get("dicom_id") or row.where
    try:
        return row.where, dicom, None, _said(row, row.text("dicom_id"))
    except DataError as error:
        return row.where, dicom, error, None


def _said(row: Row, dicom: str) -> ImageLines:
    column = _there(row, _TEXTS)
    if column is None:
        raise DataError(f"{row.where}: column 'statement' or 'sentence' is missing or empty; use the file as published")
    phrase = clean_report(row.text(column))
    if not phrase:
        raise DataError(f"{row.where}: column {column!r} = {row.text(column)!r}: no words; complete or remove the line")
    split = row.get("split")
    path = row.get("path") or row.get("image")
    return ImageLines(
        dicom,
        row.where,
        path=path if path and "/" in path else None,
        subject=row.get("subject_id") or subject_in(path),
        study=row.get("study_id"),
        size=next((size for names in _SIZES if (size := size_in(row, *names))), None),
        split=split_of(split, f"{row.where}: column 'split'") if split else None,
        statements=[Statement(row.where, phrase, (_box(row),), _disease(row, phrase))],
    )


def _there(row: Row, columns: tuple[str, ...]) -> str | None:
    return next((column for column in columns if row.get(column) is not None), None)


def _box(row: Row) -> Box:
    for columns in _CORNERS:
        if all(column in row.cells for column in columns):
            where = f"{row.where}: columns {', '.join(columns)}"
            return corners([row.number(column) for column in columns], where)
    if all(column in row.cells for column in "xywh"):
        x, y, w, h = (row.number(column) for column in "xywh")
        return corners([x, y, x + w, y + h], f"{row.where}: columns x, y, w, h")
    column = _there(row, _LISTS)
    if column is None:
        raise DataError(f"{row.where}: column 'xmin' is missing; use the file as published")
    return corner_text(row.text(column), f"{row.where}: column {column!r}")


def _disease(row: Row, phrase: str) -> str | None:
    """The one disease that is marked; REFLACX has pleural effusion among other abnormality of the pleura."""

    def marked(label: str) -> bool:
        return (row.get(label) or "false").lower() not in {"false", "0", "0.0"}

    labels = [label for label in REFLACX if marked(label)]
    if marked("pleural abnormality"):
        labels.append("pleural effusion" if "effusion" in phrase.lower() else "pleural thickening")
    return disease_of(labels, REFLACX)
