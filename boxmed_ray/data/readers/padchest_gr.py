"""PadChest-GR as published: ``grounded_reports_*.json``, ``master_table.csv`` (or its zip) and 16-bit PNG images.

What lives here: those files. What does not: what a label means (labels.py). A report is the English sentences in
their order; boxes are those of the first reader, as shares of width and height, beside those of the second
(``extra_boxes``). Patients and splits are the master
table's. Source: Castro et al., NEJM AI 2025 (arXiv 2411.05085).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from boxmed_ray.data.labels import PADCHEST, as_phrase, disease_of, region_of
from boxmed_ray.data.readers import Item, SkippedStudy, locate
from boxmed_ray.data.readers.boxes import check_inside, corners, scaled_box
from boxmed_ray.data.readers.files import DataFolder, read_json, stored_size
from boxmed_ray.data.readers.tables import Row, read_table, split_of
from boxmed_ray.data.report_text import clean_report
from boxmed_ray.data.study import Box, DataError, Finding
from rewards.categories import NO_FINDING

SOURCE: Final = "padchest-gr"
_REPORTS: Final = r"grounded_reports.*\.json"
_MASTER: Final = (r"master_table\.csv", r"master_table\.csv\.zip")


def read_padchest_gr(root: Path, test_share: float) -> Iterator[Item]:
    """Every study of the grounded reports.

    Raises:
        DataError: a file is missing or not in the layout.
    """
    del test_share  # the data set has splits
    folder = DataFolder(root)
    path = folder.need("grounded_reports_20240819.json", _REPORTS)
    master: dict[str, Row] = {}
    for row in read_table(folder.need("master_table.csv", *_MASTER), ("ImageID", "PatientID", "split")):
        master.setdefault(row.get("ImageID") or "", row)
    studies = read_json(path)
    if not isinstance(studies, list):
        raise DataError(f"{path}: must be a list of studies; use the file as published")
    for index, entry in enumerate(studies):
        yield _study(f"{path}: [{index}]", entry, master, folder)


def _study(where: str, entry: Any, master: dict[str, Row], folder: DataFolder) -> Item:
    name = entry.get("ImageID") if isinstance(entry, dict) else None
    stem = Path(name).stem if isinstance(name, str) else where
    try:
        if not isinstance(name, str) or not isinstance(entry.get("findings"), list):
            raise DataError(f"{where}: must have ImageID and a list of findings; use the file as published")
        row = master.get(name)
        if row is None:
            raise DataError(f"{where}.ImageID = {name!r}: not in the master table; patients and splits are there")
        patient, split = row.text("PatientID"), split_of(row.text("split"), f"{row.where}: column 'split'")
        image = folder.image(stem, where, f"Padchest_GR_files/PadChest_GR/{name}", f"PadChest_GR/{name}", name)
        width, height = stored_size(image, where)
        findings = tuple(
            _finding(f"{where}.findings[{index}]", finding, width, height)
            for index, finding in enumerate(entry["findings"])
        )
    except DataError as error:
        return SkippedStudy(stem, str(error))
    return locate(
        where,
        {
            "id": stem,
            "patient_id": patient,
            "image": image,
            "width": width,
            "height": height,
            "report": " ".join(finding.phrase for finding in findings) or None,
            "findings": findings,
            "split": split,
            "source": SOURCE,
        },
    )


def _finding(where: str, finding: Any, width: int, height: int) -> Finding:
    """One sentence; what it finds absent or normal is a denial, whatever its labels."""
    if not isinstance(finding, dict):
        raise DataError(f"{where} = {finding!r}: must be an object; use the file as published")
    labels = [str(label) for label in _list(where, finding, "labels")]
    written = finding.get("sentence_en")
    phrase = clean_report(written if isinstance(written, str) else "") or ", ".join(labels)
    if not phrase:
        raise DataError(f"{where}.sentence_en = {written!r}: no words; complete or remove the finding")
    if not isinstance(finding.get("abnormal"), bool):
        raise DataError(f"{where}.abnormal = {finding.get('abnormal')!r}: must be true or false; correct it")
    if not finding["abnormal"]:
        return Finding(phrase=_ended(phrase), disease=NO_FINDING)
    boxes, others = (_boxes(where, finding, key, width, height) for key in ("boxes", "extra_boxes"))
    disease = disease_of(labels, PADCHEST)
    region = region_of(disease, boxes, width, height)
    readings = (boxes, others) if others else ()
    return Finding(phrase=_ended(phrase), boxes=boxes, disease=disease, region=region, readings=readings)


def _boxes(where: str, finding: dict[str, Any], key: str, width: int, height: int) -> tuple[Box, ...]:
    boxes = []
    for number, shares in enumerate(_list(where, finding, key)):
        place = f"{where}.{key}[{number}]"
        if not isinstance(shares, list):
            raise DataError(f"{place} = {shares!r}: must be [x1, y1, x2, y2]; correct it")
        box = corners(shares, place)
        if max(box) > 1.5:
            raise DataError(f"{place} = {list(box)}: must be shares of width and height, from 0 to 1; correct it")
        scaled = scaled_box(box, width, height)
        check_inside(scaled, (width, height), place)
        boxes.append(scaled)
    return tuple(boxes)


def _list(where: str, finding: dict[str, Any], key: str) -> list[Any]:
    value = finding.get(key) or []
    if not isinstance(value, list):
        raise DataError(f"{where}.{key} = {value!r}: must be a list; correct it")
    return value


def _ended(phrase: str) -> str:
    return phrase if phrase.endswith((".", "!", "?")) else as_phrase(phrase)
