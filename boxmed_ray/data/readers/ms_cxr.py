"""MS-CXR as published: ``MS_CXR_Local_Alignment_v1.*`` as CSV or COCO JSON, on images of MIMIC-CXR.

What lives here: those two layouts, which say the same. What does not: images and studies (mimic_boxes.py). A phrase
with several boxes has a line for each; an image may have several entries in the JSON. Version 0.1 has no splits:
those of MIMIC-CXR, else a split by patient. Source: Boecking et al., ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from boxmed_ray.data.labels import CHEXPERT, as_phrase
from boxmed_ray.data.readers import Item
from boxmed_ray.data.readers.boxes import finite
from boxmed_ray.data.readers.coco import read_lists
from boxmed_ray.data.readers.files import read_json
from boxmed_ray.data.readers.mimic_boxes import ImageLines, MimicFolder, Statement, boxed_study, by_image
from boxmed_ray.data.readers.tables import Row, read_table, split_of
from boxmed_ray.data.report_text import clean_report
from boxmed_ray.data.study import Box, DataError

SOURCE: Final = "ms-cxr"
_NAME: Final = r"MS_CXR_Local_Alignment.*\."
_COLUMNS: Final = ("dicom_id", "category_name", "label_text", "x", "y", "w", "h", "image_width", "image_height")
_Line = tuple[str, str, DataError | None, ImageLines | None]


def read_ms_cxr(root: Path, test_share: float) -> Iterator[Item]:
    """Every image of the data set; the CSV is read where both are there.

    Raises:
        DataError: neither file, or a column or list of it is missing.
    """
    folder = MimicFolder(root)
    path = folder.need("MS_CXR_Local_Alignment_v1.1.0.csv or .json", f"{_NAME}csv", f"{_NAME}json")
    is_json = path.name.removesuffix(".gz").endswith(".json")
    lines = _json_lines(path) if is_json else (_csv_line(row) for row in read_table(path, _COLUMNS))
    for image in by_image(lines):
        yield boxed_study(image, SOURCE, folder, test_share)


def _csv_line(row: Row) -> _Line:
    dicom = row.get("dicom_id") or row.where
    try:
        row.text("dicom_id")
        values = {name: row.get(name) for name in ("category_name", "label_text", "path", "split")}
        numbers = {name: row.number(name) for name in ("x", "y", "w", "h", "image_width", "image_height")}
        return row.where, dicom, None, _said(row.where, dicom, values, numbers, row.get("subject_id"))
    except DataError as error:
        return row.where, dicom, error, None


def _said(
    where: str, dicom: str, values: dict[str, Any], numbers: dict[str, float], subject: str | None = None
) -> ImageLines:
    x, y, w, h = (numbers[name] for name in ("x", "y", "w", "h"))
    if w <= 0 or h <= 0:
        raise DataError(f"{where}: 'w', 'h' = {w:g}, {h:g}: the box is inverted or empty; both must be above 0")
    size = numbers["image_width"], numbers["image_height"]
    if min(size) < 1:
        raise DataError(f"{where}: 'image_width', 'image_height' = {size}: must be above 0; correct them")
    category = str(values.get("category_name"))
    if category.lower() not in CHEXPERT:
        raise DataError(f"{where}: category {category!r}: is none of the 14 diseases; correct it")
    disease = CHEXPERT[category.lower()]
    phrase = clean_report(str(values.get("label_text") or "")) or as_phrase(category)
    split = values.get("split")
    return ImageLines(
        dicom,
        where,
        path=values.get("path"),
        subject=subject,
        size=size,
        split=split_of(str(split), f"{where}: 'split'") if split is not None else None,
        statements=[Statement(where, phrase, (Box(x, y, x + w, y + h),), disease)],
    )


def _json_lines(path: Path) -> Iterator[_Line]:
    lists = read_lists(path, read_json(path))
    images = {image.get("id"): image for image in lists["images"]}
    categories = {category.get("id"): category.get("name") for category in lists["categories"]}
    for index, annotation in enumerate(lists["annotations"]):
        where = f"{path}: annotations[{index}]"
        image = images.get(annotation.get("image_id"))
        dicom = Path(str(image.get("file_name"))).stem if image else where
        try:
            if image is None:
                raise DataError(f"{where}.image_id = {annotation.get('image_id')!r}: not among the images; correct it")
            box = annotation.get("bbox")
            if not isinstance(box, list) or len(box) != 4:
                raise DataError(f"{where}.bbox = {box!r}: must be [x, y, w, h]; correct it")
            numbers = {name: finite(value, f"{where}.bbox") for name, value in zip("xywh", box, strict=True)}
            for name, key in (("image_width", "width"), ("image_height", "height")):
                numbers[name] = finite(image.get(key), f"{where}: image {dicom!r}: {key}")
            values = {
                "category_name": categories.get(annotation.get("category_id")),
                "label_text": annotation.get("label_text"),
                "path": image.get("path"),
                "split": annotation.get("split", image.get("split")),
            }
            yield where, dicom, None, _said(where, dicom, values, numbers)
        except DataError as error:
            yield where, dicom, error, None
    listed = {annotation.get("image_id") for annotation in lists["annotations"]}
    for index, image in enumerate(lists["images"]):
        if image.get("id") not in listed:
            dicom, where = Path(str(image.get("file_name"))).stem, f"{path}: images[{index}]"
            yield where, dicom, None, ImageLines(dicom, where, path=image.get("path"))
