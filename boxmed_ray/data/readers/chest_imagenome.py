"""Chest ImaGenome's gold objects as published, on images of MIMIC-CXR.

What lives here: ``gold_bbox_coordinate_annotations_1000images.csv`` (where 29 objects lie) and
``gold_object_attribute_with_coordinates.txt`` (what is said of them), either or both. What does not: images and studies
(mimic_boxes.py), names of objects and attributes (labels.py). Coordinates are those of the published images, not of
the 224 px frame. Source: Wu et al., NeurIPS Datasets and Benchmarks 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from boxmed_ray.data.labels import IMAGENOME, IMAGENOME_OBJECTS, as_phrase
from boxmed_ray.data.readers import Item
from boxmed_ray.data.readers.boxes import corner_text, corners
from boxmed_ray.data.readers.mimic_boxes import ImageLines, MimicFolder, Statement, boxed_study, by_image
from boxmed_ray.data.readers.tables import Row, read_table
from boxmed_ray.data.report_text import clean_report
from boxmed_ray.data.study import Box, DataError
from rewards.categories import NO_FINDING, SUPPORT_DEVICES

SOURCE: Final = "chest-imagenome"
_OBJECTS: Final = r"gold_bbox_coordinate_annotations_1000images\.csv"
_ATTRIBUTES: Final = r"gold_object_attribute_with_coordinates\.txt"
_RECORDS: Final = r"cxr-record-list_view\.csv"
_CORNERS: Final = ("original_x1", "original_y1", "original_x2", "original_y2")
_KINDS: Final = frozenset({"anatomicalfinding", "disease", "device", "tubesandlines"})
"""Attributes that are findings; the others are about the reading or the technique."""
_Line = tuple[str, str, DataError | None, ImageLines | None]


def read_chest_imagenome(root: Path, test_share: float) -> Iterator[Item]:
    """Every image of the gold tables.

    Raises:
        DataError: neither table is there, or a column is missing.
    """
    folder = MimicFolder(root)
    objects, attributes = folder.find(_OBJECTS), folder.find(_ATTRIBUTES)
    if objects is None and attributes is None:
        folder.need("gold_bbox_coordinate_annotations_1000images.csv", _OBJECTS)
    places: dict[tuple[str, str], Box] = {}
    lines = [*_object_lines(objects, places)] if objects else []
    lines += _attribute_lines(attributes, places, alone=objects is None) if attributes else []
    records = _records(folder)
    for image in by_image(lines):
        known = records.get(image.dicom)
        if known:
            image.subject, image.study = image.subject or known[0], image.study or known[1]
            image.view = image.view or known[2]
        yield boxed_study(image, SOURCE, folder, test_share)


def _records(folder: MimicFolder) -> dict[str, tuple[str, str, str | None]]:
    """Patient, study and view of the images of MIMIC-CXR, where the data set's list of them is there."""
    path = folder.find(_RECORDS)
    rows = read_table(path, ("dicom_id", "subject_id", "study_id")) if path else iter(())
    return {
        row.text("dicom_id"): (row.text("subject_id"), row.text("study_id"), row.get("ViewPosition")) for row in rows
    }


def _object_lines(path: Path, places: dict[tuple[str, str], Box]) -> Iterator[_Line]:
    """A statement for each object that has a box; ``places`` gets them by image and object."""
    for row in read_table(path, ("image_id", "bbox_name", *_CORNERS)):
        dicom = _dicom(row)
        try:
            name = row.text("bbox_name").lower()
            statements = []
            if any(row.get(column) is not None for column in _CORNERS):
                where = f"{row.where}: columns {', '.join(_CORNERS)}"
                places[dicom, name] = corners([row.number(column) for column in _CORNERS], where)
                statements.append(_object(row.where, name, places[dicom, name]))
            yield row.where, dicom, None, ImageLines(dicom, row.where, statements=statements)
        except DataError as error:
            yield row.where, dicom, error, None


def _object(where: str, name: str, box: Box) -> Statement:
    return Statement(where, as_phrase(name), (box,), None, IMAGENOME_OBJECTS.get(name))


def _attribute_lines(path: Path, places: dict[tuple[str, str], Box], alone: bool) -> Iterator[_Line]:
    """A statement for each attribute of an object; of the object too where this table is the only one."""
    for row in read_table(path, ("image_id", "bbox", "label_name", "coord_original")):
        dicom = _dicom(row)
        try:
            name, label = row.text("bbox").lower(), row.text("label_name").lower()
            place = places.get((dicom, name))
            statements = []
            written = row.get("coord_original")
            if place is None and written is not None:
                place = places[dicom, name] = corner_text(written, f"{row.where}: column 'coord_original'")
                if alone:
                    statements.append(_object(row.where, name, place))
            kind = (row.get("categoryID") or "anatomicalfinding").lower()
            if kind in _KINDS and (row.get("relation") or "1") in {"1", "1.0"}:
                statements.append(_attribute(row, label, kind, name, place))
            yield row.where, dicom, None, ImageLines(
                dicom, row.where, subject=row.get("patient_id"), study=row.get("study_id"), statements=statements
            )  # fmt: skip
        except DataError as error:
            yield row.where, dicom, error, None


def _attribute(row: Row, label: str, kind: str, name: str, place: Box | None) -> Statement:
    """What a sentence says of an object; the sentence where it is there, else the attribute's name.

    A denial names the object: what one lung has not the other may have.
    """
    if (row.get("context") or "yes").lower() != "yes":
        return Statement(row.where, f"No {label} in the {name}.", (), NO_FINDING, IMAGENOME_OBJECTS.get(name))
    disease = SUPPORT_DEVICES if kind in {"device", "tubesandlines"} else IMAGENOME.get(label)
    sentence = clean_report(row.get("sentence") or "")
    return Statement(
        row.where, sentence or as_phrase(label), (place,) if place else (), disease, IMAGENOME_OBJECTS.get(name)
    )


def _dicom(row: Row) -> str:
    return (row.get("image_id") or row.where).removesuffix(".dcm")
