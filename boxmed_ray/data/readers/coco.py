"""The plain COCO layout: one JSON file with images, categories and xywh boxes, images beside it.

What lives here: that layout. What does not: what a category means (concepts.py). Two optional keys
of an image are read that COCO does not define: ``patient`` and ``view``. Without a patient, every
image is a patient of its own.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from boxmed_ray.data.concepts import Concept, concept_of_name, region_of_box
from boxmed_ray.data.readers import Item, SkippedStudy, locate, split_by_patient
from boxmed_ray.data.readers.files import DataFolder, read_json
from boxmed_ray.data.study import Box, DataError, Finding

FILE: Final = "instances.json"
_Json = dict[str, Any]
_Row = tuple[str, Concept, list[float]]


def read_coco(root: Path, test_share: float) -> Iterator[Item]:
    """Every image of the file, found in ``root/images`` or ``root``.

    Args:
        root: the folder of ``instances.json`` or of one other JSON file, itself or in ``annotations``; or the file.
        test_share: share of patients held out.

    Raises:
        DataError: the file is missing, not JSON, or lacks a list that COCO has.
    """
    path = _find(root)
    if root.is_file():
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
    lists = read_lists(path, read_json(path))
    concepts, unknown = _concepts(lists["categories"])
    problems: dict[Any, str] = {}
    findings: dict[Any, list[_Row]] = defaultdict(list)
    known = Counter(image.get("id") for image in lists["images"])
    names = Counter(Path(str(image.get("file_name"))).stem for image in lists["images"])
    folder = DataFolder(root)
    for index, annotation in enumerate(lists["annotations"]):
        where: str = f"{path}: annotations[{index}]"
        image: Any = annotation.get("image_id")
        category: Any = annotation.get("category_id")
        box: Any = annotation.get("bbox")
        if image not in known:
            yield SkippedStudy(f"image {image}", f"{where}.image_id = {image!r}: not among the images; correct it")
        elif category not in concepts:
            reason = unknown.get(category, "no such category; correct it")
            problems.setdefault(image, f"{where}.category_id = {category!r}: {reason}")
        elif not _is_box(box):
            problems.setdefault(image, f"{where}.bbox = {box!r}: must be [x, y, w, h], numbers, w and h above 0")
        else:
            findings[image].append((where, concepts[category], box))
    for index, image in enumerate(lists["images"]):
        where, number = f"{path}: images[{index}]", image.get("id")
        file = Path(str(image.get("file_name")))
        # Copies of one name in several folders (p1/frontal.png, p2/frontal.png) are told apart by their paths.
        stem = file.stem if names[file.stem] == 1 else file.with_suffix("").as_posix()
        if number is None or known[number] > 1:
            reason = f"{where}.id = {number!r}: must be there once, annotations refer to it; export it again"
            yield SkippedStudy(stem, reason)
        elif number in problems:
            yield SkippedStudy(stem, problems[number])
        else:
            yield _study(where, stem, image, findings[number], folder, test_share)


def _study(where: str, stem: str, image: _Json, rows: list[_Row], folder: DataFolder, test_share: float) -> Item:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        return SkippedStudy(where, f"{where}.file_name = {name!r}: must name an image file")
    try:
        file = folder.published(f"{where}.file_name", f"images/{name}", name)
    except DataError as error:
        return SkippedStudy(stem, str(error))
    if file is None:
        return SkippedStudy(
            stem, f"{where}.file_name = {name!r}: no such image in {folder.root} or its images; restore it"
        )
    width: Any = image.get("width")
    height: Any = image.get("height")
    if not (_is_number(width) and _is_number(height)):
        return SkippedStudy(stem, f"{where}: width, height = {width!r}, {height!r}: must be whole numbers of pixels")
    patient, findings = str(image.get("patient", stem)), []
    for row_where, concept, (x, y, w, h) in rows:
        if x < -0.5 or y < -0.5 or x + w > width + 0.5 or y + h > height + 0.5:
            return SkippedStudy(
                stem, f"{row_where}.bbox = {[x, y, w, h]}: leaves the {width}x{height} image; correct the box"
            )
        box = Box(x, y, x + w, y + h)
        region = concept.region or region_of_box(box, width, height)
        findings.append(Finding(phrase=concept.phrase, boxes=(box,), disease=concept.disease, region=region))
    source = folder.root.resolve().name
    values = {
        "id": stem,
        "patient_id": patient,
        "image": file,
        "width": width,
        "height": height,
        "view": image.get("view"),
        "findings": findings,
        "split": split_by_patient(source, patient, test_share),
        "source": source,
    }
    return locate(where, values)


def read_lists(path: Path, data: Any) -> dict[str, list[_Json]]:
    """The three lists of a COCO file; DataError where ``data`` has not all of them."""
    lists: dict[str, list[_Json]] = {}
    for key in ("images", "annotations", "categories"):
        value = data.get(key) if isinstance(data, dict) else None
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise DataError(f"{path}: {key}: must be a list of objects, as COCO has it; export it again")
        for index, entry in enumerate(value):
            for name in ("id", "image_id", "category_id"):
                if isinstance(entry.get(name), list | dict):
                    raise DataError(f"{path}: {key}[{index}].{name}: must be a number or text; export it again")
        lists[key] = value
    return lists


def _find(root: Path) -> Path:
    """``instances.json``, else the one JSON file in the folder or its ``annotations``, else ``root`` itself."""
    if root.is_file() or (root / FILE).is_file():
        return root if root.is_file() else root / FILE
    found = sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    if len(found) != 1:
        raise DataError(
            f"{root / FILE}: no such file; data.root must hold {FILE} or one other JSON file ({len(found)} are there)"
        )
    return found[0]


def _concepts(categories: list[_Json]) -> tuple[dict[Any, Concept], dict[Any, str]]:
    """What each category id means, and why the others mean nothing."""
    concepts, unknown = {}, {}
    for category in categories:
        name = category.get("name")
        concept = concept_of_name(str(name))
        if concept is None:
            unknown[category.get("id")] = (
                f"category {name!r} is in neither bank; rename it to one of the 14 diseases or 12 regions"
            )
        else:
            concepts[category.get("id")] = concept
    for number, count in Counter(category.get("id") for category in categories).items():
        if count > 1:
            concepts.pop(number, None)
            unknown[number] = f"{count} categories have this id; export it again"
    return concepts, unknown


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value)) and value[2] > 0 and value[3] > 0
