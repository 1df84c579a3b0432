"""MIMIC-CXR as PhysioNet lays it out: MIMIC-CXR-JPG's images and tables, MIMIC-CXR's report texts.

What lives here: those files, findings from the CheXpert or NegBio labels, and the choice of ``annotation.json`` where
that is what ``data.root`` holds. What does not: sections of a report (report_text.py), boxes (mimic_boxes.py).

Every image is a study with the findings section of its report; the report alone is read when its image is reached.
Source: Johnson et al., Scientific Data 2019.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from boxmed_ray.data.labels import as_phrase
from boxmed_ray.data.readers import Item, SkippedStudy, locate
from boxmed_ray.data.readers.annotation import FILE as ANNOTATION
from boxmed_ray.data.readers.annotation import read_annotation
from boxmed_ray.data.readers.files import stored_size
from boxmed_ray.data.readers.mimic_boxes import METADATA, SPLITS, MimicFolder
from boxmed_ray.data.readers.tables import Row, read_table
from boxmed_ray.data.report_text import decode_report, findings_of
from boxmed_ray.data.study import DataError, Finding
from rewards.categories import CATEGORIES, NO_FINDING

SOURCE: Final = "mimic-cxr"
MAX_REPORT: Final = 1_000_000
"""Bytes; the longest report has some ten thousand."""
_LABELS: Final = (r"mimic-cxr-[\d.]+-chexpert\.csv", r"mimic-cxr-[\d.]+-negbio\.csv")
_RECORDS: Final = r"cxr-record-list\.csv"
_WORDS: Final = {"Pleural Other": "other pleural abnormality"}
_ARCHIVE: Final = r"mimic-cxr-reports\.zip"


def read_mimic_cxr(root: Path, test_share: float) -> Iterator[Item]:
    """Every image of the metadata table (or the record list, or the splits), with report, labels and official split.

    Raises:
        DataError: there is no such table, no report, or a column is missing.
    """
    folder = MimicFolder(root)
    if (folder.root / ANNOTATION).is_file():
        yield from read_annotation(folder, SOURCE, lambda entry: str(entry.get("subject_id") or "") or None)
        return
    table = folder.need("mimic-cxr-2.0.0-metadata.csv.gz", METADATA, _RECORDS, SPLITS)
    reports = _Reports(folder)
    labels = _labels(folder)
    for row in read_table(table, ("dicom_id", "subject_id", "study_id")):
        yield _study(row, folder, reports, labels, test_share)


def _study(
    row: Row, folder: MimicFolder, reports: _Reports, labels: dict[str, tuple[Finding, ...]], test_share: float
) -> Item:
    dicom = row.get("dicom_id") or row.where
    try:
        subject, study = row.text("subject_id").lstrip("p"), row.text("study_id").lstrip("s")
        findings = findings_of(reports.text(row.where, subject, study))
        if findings is None:
            reason = f"{row.where}: report s{study}: no findings section; reports without one are left out"
            return SkippedStudy(row.text("dicom_id"), reason, by_rule=True)
        image = folder.mimic_image(row.text("dicom_id"), row.where, row.get("path"), subject, study)
        width, height = stored_size(image, row.where)
    except DataError as error:
        return SkippedStudy(dicom, str(error))
    return locate(
        row.where,
        {
            "id": dicom,
            "patient_id": subject,
            "image": image,
            "width": width,
            "height": height,
            "view": row.get("ViewPosition"),
            "report": findings,
            "findings": labels.get(study, ()),
            "split": folder.split(dicom, subject, test_share),
            "source": SOURCE,
        },
    )


class _Reports:
    """Report texts: files in the tree of MIMIC-CXR, or ``mimic-cxr-reports.zip`` as it is."""

    def __init__(self, folder: MimicFolder) -> None:
        self._folder = folder
        self._path = folder.find(_ARCHIVE)
        if self._path is None and not folder.trunks:
            folder.need("mimic-cxr-reports.zip and no tree files/p10/p10000032/s50414267.txt", _ARCHIVE)
        self._archive = _open_archive(self._path) if self._path else None

    def text(self, where: str, subject: str, study: str) -> str:
        """The report of a study; DataError where there is none."""
        name = f"p{subject[:2]}/p{subject}/s{study}.txt"
        if not (subject.isdigit() and study.isdigit()):
            raise DataError(f"{where}: subject_id, study_id = {subject!r}, {study!r}: must be digits; correct them")
        for trunk in self._folder.trunks:
            if (trunk / name).is_file():
                with (trunk / name).open("rb") as file:
                    return self._decoded(file.read(MAX_REPORT + 1), trunk / name)
        if self._archive is not None and name in self._archive[1]:
            archive, members = self._archive
            try:
                with archive.open(members[name]) as packed:
                    return self._decoded(packed.read(MAX_REPORT + 1), Path(f"{self._path}!{name}"))
            except (OSError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
                raise DataError(f"{self._path}: {name}: not readable ({error}); download it again") from error
        raise DataError(
            f"{where}: no report {name} below {self._folder.root}; download it from MIMIC-CXR or remove the line"
        )

    def _decoded(self, data: bytes, path: Path) -> str:
        if len(data) > MAX_REPORT:
            raise DataError(f"{path}: has more than {MAX_REPORT} bytes; it is no report")
        return decode_report(data)


def _open_archive(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The archive, and its members by ``p10/p10000032/s50414267.txt``; those that would leave it are not there."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable zip ({error}); download it again") from error
    members = {}
    for member in archive.infolist():
        parts = PurePosixPath(member.filename).parts
        if parts and parts[0] != "/" and ".." not in parts:
            members["/".join(parts[-3:])] = member
    return archive, members


def _labels(folder: MimicFolder) -> dict[str, tuple[Finding, ...]]:
    """Findings of each study by CheXpert, else NegBio: 1 is there, 0 is denied, -1 and blank say nothing."""
    path = folder.find(*_LABELS)
    if path is None:
        return {}
    rows = read_table(path, ("subject_id", "study_id", *CATEGORIES))
    return {row.text("study_id"): tuple(_findings(row)) for row in rows}


def _findings(row: Row) -> Iterator[Finding]:
    for disease in CATEGORIES:
        value = 0.0 if row.get(disease) is None else row.number(disease)
        if value not in {-1.0, 0.0, 1.0}:
            raise DataError(f"{row.where}: column {disease!r} = {row.get(disease)!r}: must be 1, 0, -1 or empty")
        words = _WORDS.get(disease, disease.lower())
        if value == 1.0:
            yield Finding(phrase=as_phrase(words), disease=disease)
        elif value == 0.0 and row.get(disease) is not None and disease != NO_FINDING:
            yield Finding(phrase=f"No {words}.", disease=NO_FINDING)
