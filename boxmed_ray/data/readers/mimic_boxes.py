"""Phrases and boxes on images of MIMIC-CXR: what MS-CXR, LATTE-CXR and Chest ImaGenome share.

What lives here: from what several lines say of one image to a study, its image found in the published tree, boxes
scaled to the stored copy. What does not: the lines (the readers), reports (mimic_cxr.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from boxmed_ray.data.labels import region_of
from boxmed_ray.data.readers import Item, SkippedStudy, locate, split_by_patient
from boxmed_ray.data.readers.boxes import check_inside, scaled_box
from boxmed_ray.data.readers.files import DataFolder, stored_size
from boxmed_ray.data.readers.tables import Row, read_table, split_of
from boxmed_ray.data.study import Box, DataError, Finding, Split

SPLIT_KEY: Final = "mimic-cxr"
"""Data sets on the images of MIMIC-CXR hold out the same patients."""
METADATA: Final = r"mimic-cxr-[\d.]+-metadata\.csv"
SPLITS: Final = r"mimic-cxr-[\d.]+-split\.csv"
_SUBJECT: Final = re.compile(r"(?:^|/)p(\d{5,})(?:/|$)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One phrase about an image with boxes in pixels of the published image."""

    where: str
    phrase: str
    boxes: tuple[Box, ...]
    disease: str | None
    region: str | None = None
    """Where the data set names it; otherwise disease and boxes do."""


@dataclass(slots=True)
class ImageLines:
    """What the lines about one image say; ``problem`` is the first bad line's.

    ``where`` is the first line about it; ``size`` width and height of the published image.
    """

    dicom: str
    where: str
    path: str | None = None
    subject: str | None = None
    study: str | None = None
    view: str | None = None
    size: tuple[float, float] | None = None
    split: Split | None = None
    statements: list[Statement] = field(default_factory=list)
    problem: str | None = None


class MimicFolder(DataFolder):
    """A folder with images of MIMIC-CXR; the tables that come with them are optional."""

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The official split of each image; empty where the table is not there."""
        path = self.find(SPLITS)
        rows = read_table(path, ("dicom_id", "split")) if path else iter(())
        return {row.text("dicom_id"): split_of(row.text("split"), f"{row.where}: column 'split'") for row in rows}

    @cached_property
    def metadata(self) -> dict[str, tuple[str | None, tuple[float, float] | None, str | None]]:
        """Patient, size (width, height) and view of each published image; empty where the table is not there."""
        path = self.find(METADATA)
        rows = read_table(path, ("dicom_id", "subject_id")) if path else iter(())
        return {row.text("dicom_id"): (row.get("subject_id"), size_in(row, "Columns", "Rows"), row.get("ViewPosition"))
                for row in rows}  # fmt: skip

    def split(self, dicom: str, subject: str, test_share: float) -> Split:
        """The official split, else one by patient."""
        return self.splits.get(dicom) or split_by_patient(SPLIT_KEY, subject, test_share)

    def mimic_image(self, dicom: str, where: str, path: str | None, subject: str | None, study: str | None) -> Path:
        """An image by the path a table gives, by its place in the tree, or by its name alone."""
        relative = [path] if path else []
        if subject and study:
            relative.append(f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg")
        return self.image(dicom, where, *relative)


def size_in(row: Row, width: str, height: str) -> tuple[float, float] | None:
    """The size of the published image from two columns, where both are there."""
    if row.get(width) is None or row.get(height) is None:
        return None
    size = row.number(width), row.number(height)
    if min(size) < 1:
        raise DataError(f"{row.where}: columns {width!r}, {height!r} = {size}: must be above 0; correct them")
    return size


def subject_in(path: str | None) -> str | None:
    """The patient in a path of MIMIC-CXR, as in ``p10/p10000032/s50414267/…``."""
    found = _SUBJECT.findall((path or "").replace("\\", "/"))
    return found[-1] if found else None


def by_image(lines: Iterable[tuple[str, str, DataError | None, ImageLines | None]]) -> Iterator[ImageLines]:
    """Lines about one image joined, in the order of their first.

    Args:
        lines: where, image id, and either what is wrong with the line or what it says.
    """
    joined: dict[str, ImageLines] = {}
    for where, dicom, error, said in lines:
        image = joined.setdefault(dicom, ImageLines(dicom, where))
        if error is not None:
            image.problem = image.problem or str(error)
        elif said is not None:
            for name in ("path", "subject", "study", "view", "size", "split"):
                if getattr(image, name) is None:
                    setattr(image, name, getattr(said, name))
            if said.split is not None and said.split != image.split:
                image.problem = image.problem or (
                    f"{where}: split = {said.split!r}, but {image.split!r} at {image.where}; give an image one split"
                )
            image.statements += said.statements
    yield from joined.values()


def boxed_study(lines: ImageLines, source: str, folder: MimicFolder, test_share: float) -> Item:
    """The study of one image."""
    if lines.problem:
        return SkippedStudy(lines.dicom, lines.problem)
    known, size, view = folder.metadata.get(lines.dicom, (None, None, None))
    try:
        subject = lines.subject or subject_in(lines.path)
        image = folder.mimic_image(lines.dicom, lines.where, lines.path, subject, lines.study)
        subject = subject or known or subject_in(image.as_posix())
        if subject is None:
            raise DataError(
                f"{lines.where}: image {lines.dicom!r}: no patient in its line, its path or a metadata table; splits "
                "are by patient: put mimic-cxr-2.0.0-metadata.csv.gz below data.root"
            )
        width, height = stored_size(image, lines.where)
        findings = _findings(lines.statements, lines.size or size or (width, height), width, height)
    except DataError as error:
        return SkippedStudy(lines.dicom, str(error))
    return locate(
        lines.where,
        {
            "id": lines.dicom,
            "patient_id": subject,
            "image": image,
            "width": width,
            "height": height,
            "view": lines.view or view,
            "findings": findings,
            "split": lines.split or folder.split(lines.dicom, subject, test_share),
            "source": source,
        },
    )


def _findings(
    statements: list[Statement], published: tuple[float, float], width: int, height: int
) -> tuple[Finding, ...]:
    """One finding for each phrase and disease, with the boxes of all its lines, each once."""
    merged: dict[tuple[str, str | None, str | None], list[Box]] = {}
    for statement in statements:
        boxes = merged.setdefault((statement.phrase, statement.disease, statement.region), [])
        for box in statement.boxes:
            check_inside(box, published, statement.where)
            scaled = scaled_box(box, width / published[0], height / published[1])
            if scaled not in boxes:
                boxes.append(scaled)
    return tuple(
        Finding(
            phrase=phrase,
            boxes=tuple(boxes),
            disease=disease,
            region=region or region_of(disease, boxes, width, height),
        )
        for (phrase, disease, region), boxes in merged.items()
    )
