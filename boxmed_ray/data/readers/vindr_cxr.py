"""VinDr-CXR as published: ``annotations/`` with boxes and labels, DICOM images in ``train/`` and ``test/``.

What lives here: those tables, and how boxes of several readers of one image become one set. What does not: what a
label means (labels.py). Nothing in the data set names a patient: each image is one of its own. No reports.
Source: Nguyen et al., Scientific Data 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from boxmed_ray.data.labels import VINDR, as_phrase, region_of
from boxmed_ray.data.readers import Item, SkippedStudy, locate
from boxmed_ray.data.readers.boxes import check_inside, corners
from boxmed_ray.data.readers.files import DataFolder, stored_size
from boxmed_ray.data.readers.tables import Row, read_table
from boxmed_ray.data.study import Box, DataError, Finding, Split
from rewards.box import iou
from rewards.categories import NO_FINDING

SOURCE: Final = "vindr-cxr"
SAME_BOX: Final = 0.5
"""Boxes of one label by different readers that overlap by this IoU are one box, their mean."""
_CORNERS: Final = ("x_min", "y_min", "x_max", "y_max")
_SPLITS: Final[tuple[Split, ...]] = ("train", "test")


@dataclass(slots=True)
class _Image:
    where: str
    split: Split
    boxes: dict[str, list[tuple[str, str, Box]]] = field(default_factory=dict)
    """By label: where, reader and box of each line."""
    labels: dict[str, None] = field(default_factory=dict)
    """In order, those without boxes too."""
    readers: dict[str, None] = field(default_factory=dict)
    """In order, those who found nothing too."""
    problem: str | None = None


def read_vindr_cxr(root: Path, test_share: float) -> Iterator[Item]:
    """Every image of the annotation tables; train and test are the data set's own.

    Raises:
        DataError: neither table is there, or a column is missing.
    """
    del test_share  # the data set has splits
    folder = DataFolder(root)
    images: dict[str, _Image] = {}
    tables = [(split, folder.find(rf"annotations_{split}\.csv")) for split in _SPLITS]
    if not any(path for _, path in tables):
        folder.need("annotations_train.csv or annotations_test.csv", r"annotations_train\.csv")
    for split, path in tables:
        for row in read_table(path, ("image_id", "class_name", *_CORNERS)) if path else ():
            _add_box(row, split, images)
        labels = folder.find(rf"image_labels_{split}\.csv")
        for row in read_table(labels, ("image_id",)) if labels else ():
            _add_labels(row, split, images)
    for name, image in images.items():
        yield _study(name, image, folder)


def _add_box(row: Row, split: Split, images: dict[str, _Image]) -> None:
    image = images.setdefault(row.get("image_id") or row.where, _Image(row.where, split))
    try:
        row.text("image_id")
        label = row.text("class_name")
        if label.lower() not in VINDR:
            raise DataError(f"{row.where}: column 'class_name' = {label!r}: not a label of VinDr-CXR; correct it")
        image.labels[label.lower()] = None
        if reader := row.get("rad_id"):
            image.readers[reader] = None
        if label.lower() != "no finding" and any(row.get(column) for column in _CORNERS):
            box = corners([row.number(column) for column in _CORNERS], f"{row.where}: columns {', '.join(_CORNERS)}")
            image.boxes.setdefault(label.lower(), []).append((row.where, row.get("rad_id") or "", box))
        if split != image.split:
            raise DataError(f"{row.where}: image in split {split!r}, but in {image.split!r} at {image.where}")
    except DataError as error:
        image.problem = image.problem or str(error)


def _add_labels(row: Row, split: Split, images: dict[str, _Image]) -> None:
    image = images.setdefault(row.get("image_id") or row.where, _Image(row.where, split))
    try:
        row.text("image_id")
        for label in VINDR:
            if row.get(label) is not None and row.number(label) > 0:
                image.labels[label] = None
    except DataError as error:
        image.problem = image.problem or str(error)


def _study(name: str, image: _Image, folder: DataFolder) -> Item:
    if image.problem:
        return SkippedStudy(name, image.problem)
    try:
        file = folder.image(name, image.where, f"{image.split}/{name}.dicom", f"{name}.dicom")
        width, height = stored_size(file, image.where)
        findings = tuple(_findings(image, width, height))
    except DataError as error:
        return SkippedStudy(name, str(error))
    return locate(
        image.where,
        {
            "id": name,
            "patient_id": name,
            "image": file,
            "width": width,
            "height": height,
            "findings": findings,
            "split": image.split,
            "source": SOURCE,
        },
    )


def _findings(image: _Image, width: int, height: int) -> Iterator[Finding]:
    """One finding a label; "No finding" of one reader counts only where no other found anything."""
    found = [label for label in image.labels if label != "no finding"]
    if not found and image.labels:
        yield Finding(phrase="No finding.", disease=NO_FINDING)
    for label in found:
        lines = image.boxes.get(label, [])
        for where, _, box in lines:
            check_inside(box, (width, height), where)
        boxes = agreed_boxes([(reader, box) for _, reader, box in lines])
        disease = VINDR[label]
        yield Finding(
            phrase=as_phrase(label),
            boxes=boxes,
            disease=disease,
            region=region_of(disease, boxes, width, height),
            readings=tuple(tuple(box for _, by, box in lines if by == reader) for reader in image.readers)
            if boxes and len(image.readers) > 1
            else (),
        )


def agreed_boxes(drawn: list[tuple[str, Box]]) -> tuple[Box, ...]:
    """Boxes of one label in one image, each place once.

    A box joins the first group that has none of its reader and whose mean it overlaps by ``SAME_BOX``; each group gives
    its mean. A place that one reader alone saw is kept.

    Args:
        drawn: reader and box, in the order of the table. Boxes without a reader are a consensus and stay as they are.
    """
    groups: list[tuple[set[str], list[Box]]] = []
    for reader, box in drawn:
        fitting = (g for g in groups if reader and reader not in g[0] and iou(_mean(g[1]), box) >= SAME_BOX)
        group = next(fitting, None)
        if group is None:
            groups.append(({reader}, [box]))
        else:
            group[0].add(reader)
            group[1].append(box)
    return tuple(dict.fromkeys(_mean(boxes) for _, boxes in groups))


def _mean(boxes: list[Box]) -> Box:
    return Box(*(sum(side) / len(boxes) for side in zip(*boxes, strict=True)))
