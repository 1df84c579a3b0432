"""``annotation.json``: the layout that work on report generation shares (R2Gen, Chen et al., EMNLP 2020).

What lives here: that layout, in which both IU X-Ray and MIMIC-CXR are passed on: three splits of entries with an id,
a report, and images below ``images/``. What does not: the layouts of their owners (iu_xray.py, mimic_cxr.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from boxmed_ray.data.readers import Item, SkippedStudy, locate
from boxmed_ray.data.readers.files import DataFolder, read_json, stored_size
from boxmed_ray.data.readers.tables import split_of
from boxmed_ray.data.report_text import findings_of
from boxmed_ray.data.study import DataError, Split

FILE: Final = "annotation.json"


def read_annotation(
    folder: DataFolder, source: str, patient_of: Callable[[dict[str, Any]], str | None]
) -> Iterator[Item]:
    """One study for each image of each entry; images of an entry share its report.

    Args:
        folder: holds ``annotation.json``; images are looked for at their paths in ``images/`` or beside the file, and
            by name alone where one entry alone has that name: those of IU X-Ray are all called ``0.png`` and ``1.png``.
        source: name of the data set.
        patient_of: the patient of an entry.

    Raises:
        DataError: the file is no object of lists of entries.
    """
    path = folder.root / FILE
    splits = read_json(path)
    if not isinstance(splits, dict) or not splits or not all(isinstance(rows, list) for rows in splits.values()):
        raise DataError(f"{path}: must be an object with the lists train, val and test; use the file as published")
    once = _names_used_once(entry for entries in splits.values() for entry in entries)
    for name, entries in splits.items():
        split = split_of(name, f"{path}: key")
        for index, entry in enumerate(entries):
            yield from _studies(f"{path}: {name}[{index}]", entry, split, folder, once, source, patient_of)


def _names_used_once(entries: Iterable[Any]) -> frozenset[str]:
    """Names of images, without folder and suffix, that tell which image is meant."""
    counts = Counter(Path(name).stem for entry in entries if isinstance(entry, dict) for name in _names(entry))
    return frozenset(name for name, count in counts.items() if count == 1)


def _names(entry: dict[str, Any]) -> list[str]:
    """The images of an entry; none where they are not given as text."""
    names = entry.get("image_path")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return []
    return names


def _studies(
    where: str, entry: Any, split: Split, folder: DataFolder, once: frozenset[str], source: str,
    patient_of: Callable[[dict[str, Any]], str | None],
) -> Iterator[Item]:  # fmt: skip
    identity = str(entry.get("id") or where) if isinstance(entry, dict) else where
    try:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str | int):
            raise DataError(f"{where}: must be an object with id, report and image_path; use the file as published")
        names, report, patient = _names(entry), entry.get("report"), patient_of(entry)
        if not names:
            raise DataError(
                f"{where}.image_path = {entry.get('image_path')!r}: must be a list of image files; correct it"
            )
        if not isinstance(report, str):
            raise DataError(f"{where}.report = {report!r}: must be text; correct it")
        if not patient:
            raise DataError(f"{where}: has no patient; splits are by patient: correct its id or subject_id")
    except DataError as error:
        yield SkippedStudy(identity, str(error))
        return
    # Some copies hold whole reports, others their findings alone.
    text = findings_of(report) or findings_of(f"FINDINGS: {report}")
    for number, name in enumerate(names):
        study = identity if len(names) == 1 else f"{identity}_{number}"
        if not text:
            yield SkippedStudy(study, f"{where}.report: no words; an empty report is left out", by_rule=True)
            continue
        yield _study(f"{where}.image_path[{number}]", study, name, folder, once, {
            "patient_id": patient, "report": text, "split": split, "source": source,
        })  # fmt: skip


def _study(where: str, study: str, name: str, folder: DataFolder, once: frozenset[str], values: dict[str, Any]) -> Item:
    places, stem = (f"images/{name}", name), Path(name).stem
    try:
        image = folder.image(stem, where, *places) if stem in once else folder.published(where, *places)
        if image is None:
            raise DataError(f"{where}: no image {name!r} in {folder.root}/images; download it or remove the line")
        width, height = stored_size(image, where)
    except DataError as error:
        return SkippedStudy(study, str(error))
    return locate(where, values | {"id": study, "image": image, "width": width, "height": height})
