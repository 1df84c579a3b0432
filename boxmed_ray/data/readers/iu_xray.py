"""IU X-Ray as Open-i publishes it: one XML a report, PNG images; or its shared ``annotation.json``.

What lives here: that XML, from a folder or from ``NLMCXR_reports.tgz`` as it is. What does not: sections inside a
findings text (report_text.py). Every image is a study; a report stands for a patient. Archives are never unpacked to
disk, and a document type or an entity in the XML is refused. Source: Demner-Fushman et al., JAMIA 2016.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from boxmed_ray.data.readers import Item, SkippedStudy, locate, split_by_patient
from boxmed_ray.data.readers.annotation import FILE as ANNOTATION
from boxmed_ray.data.readers.annotation import read_annotation
from boxmed_ray.data.readers.files import DataFolder, stored_size
from boxmed_ray.data.report_text import decode_report, findings_of
from boxmed_ray.data.study import DataError

SOURCE: Final = "iu-xray"
MAX_XML: Final = 4_000_000
MAX_ARCHIVE: Final = 400_000_000
"""Unpacked bytes; the published archive has 24 million."""
_ARCHIVE: Final = r"NLMCXR_reports\.(?:tgz|tar\.gz|tar)"
_XML: Final = r"[^.].*\.xml"
_DECLARED: Final = re.compile(rb"^\s*<\?xml[^>]*\?>")


@dataclass(frozen=True, slots=True)
class OpenIReport:
    """One report: its id (``CXR1``), the text of its sections by label, and the stems of its images."""

    where: str
    id: str
    sections: dict[str, str]
    images: tuple[str, ...]

    @property
    def findings(self) -> str | None:
        """The cleaned findings section, None where there is none."""
        return findings_of(f"FINDINGS: {self.sections.get('FINDINGS', '')}")


def read_iu_xray(root: Path, test_share: float) -> Iterator[Item]:
    """Every image of every report.

    Raises:
        DataError: there are no reports, reports in two layouts, or no image at all.
    """
    folder = DataFolder(root)
    if (folder.root / ANNOTATION).is_file():
        yield from read_annotation(folder, SOURCE, lambda entry: str(entry["id"]).split("_")[0])
        return
    if not folder.has_images:
        raise DataError(f"{root}: no image below it; unpack NLMCXR_png.tgz there")
    for report in read_reports(folder):
        if isinstance(report, SkippedStudy):
            yield report
        else:
            yield from _studies(report, folder, test_share)


def _studies(report: OpenIReport, folder: DataFolder, test_share: float) -> Iterator[Item]:
    findings = report.findings
    if findings is None or not report.images:
        what = "findings" if findings is None else "image"
        reason = f"{report.where}: report {report.id!r}: has no {what}; reports without are left out"
        yield SkippedStudy(report.id, reason, by_rule=True)
        return
    for stem in report.images:
        try:
            image = folder.image(stem, f"{report.where}: parentImage", f"{stem}.png", f"NLMCXR_png/{stem}.png")
            width, height = stored_size(image, report.where)
        except DataError as error:
            yield SkippedStudy(stem, str(error))
            continue
        values = {
            "id": stem,
            "patient_id": report.id,
            "image": image,
            "width": width,
            "height": height,
            "report": findings,
            "split": split_by_patient(SOURCE, report.id, test_share),
            "source": SOURCE,
        }
        yield locate(report.where, values)


def read_reports(folder: DataFolder) -> Iterator[OpenIReport | SkippedStudy]:
    """Every report of ``NLMCXR_reports.tgz``, or of the XML files where the archive was unpacked.

    Raises:
        DataError: there are neither, or the archive cannot be read.
    """
    files = folder.all(_XML)
    if not files:
        yield from _archived(folder.need("NLMCXR_reports.tgz and no ecgen-radiology/1.xml", _ARCHIVE))
        return
    for path in files:
        with path.open("rb") as file:
            yield parse_report(file.read(MAX_XML + 1), str(path))


def _archived(path: Path) -> Iterator[OpenIReport | SkippedStudy]:
    """Members are read where they lie, one after another: nothing of the archive reaches the disk."""
    try:
        with tarfile.open(fileobj=io.BytesIO(_unpacked(path))) as archive:
            for member in archive:
                where, parts = f"{path}!{member.name}", PurePosixPath(member.name).parts
                if member.isdir() or not member.name.lower().endswith(".xml"):
                    continue
                if ".." in parts or parts[0] == "/" or not member.isfile():
                    yield SkippedStudy(where, f"{where}: a link or a path outside the archive; download it again")
                    continue
                file = archive.extractfile(member)
                yield parse_report(file.read(MAX_XML + 1) if file else b"", where)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a readable archive ({error}); download it again") from error


def _unpacked(path: Path) -> bytes:
    """The tar in a gzipped file, or the file. Counted here: tarfile believes what headers say of their own size."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as file:
        data = file.read(MAX_ARCHIVE + 1)
    if len(data) > MAX_ARCHIVE:
        raise DataError(f"{path}: unpacks to more than {MAX_ARCHIVE} bytes; it is not Open-i's archive")
    return data


def parse_report(data: bytes, where: str) -> OpenIReport | SkippedStudy:
    """One report from the bytes of its XML."""
    name = PurePosixPath(where).stem
    if len(data) > MAX_XML:
        return SkippedStudy(name, f"{where}: has more than {MAX_XML} bytes; it is no report")
    try:
        # What the declaration says of the encoding is not always so, and text needs none.
        root = fromstring(_DECLARED.sub(b"", decode_report(data).encode(), count=1), forbid_dtd=True)
    except DefusedXmlException:
        return SkippedStudy(name, f"{where}: declares a document type or an entity; Open-i's reports have none")
    except (ParseError, ValueError) as error:
        return SkippedStudy(name, f"{where}: not readable as XML ({error}); download it again")
    found = root.find(".//uId")
    identity = (found.get("id") if found is not None else None) or ""
    if not identity:
        return SkippedStudy(name, f"{where}: uId: has no id; download it again")
    sections: dict[str, str] = {}
    for section in root.iter("AbstractText"):
        label = (section.get("Label") or "").strip().upper()
        sections[label] = f"{sections.get(label, '')}\n{''.join(section.itertext())}".strip()
    images = dict.fromkeys((image.get("id") or "").strip() for image in root.iter("parentImage"))
    return OpenIReport(where, identity, sections, tuple(image for image in images if image))
