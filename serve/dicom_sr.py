"""A report as a DICOM Comprehensive SR, for a report about a DICOM image: TID 2000, with a place for each sentence.

What lives here: the mapping, on highdicom. The SR belongs to the study of the image that was sent and carries that
image's patient and study, as every SR must: it goes back to the sender and is kept nowhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pydicom
from highdicom import UID
from highdicom.sr import (
    CodedConcept,
    ComprehensiveSR,
    ContainerContentItem,
    ContentSequence,
    GraphicTypeValues,
    ImageContentItem,
    RelationshipTypeValues,
    ScoordContentItem,
    TextContentItem,
)

from boxmed_ray import __version__
from serve.schemas import BoxPixels, Report, Sentence
from serve.security import RequestRefusedError

MEDIA = "application/dicom"
_REPORT = CodedConcept("18748-4", "LN", "Diagnostic Imaging Report")
_FINDINGS = CodedConcept("121070", "DCM", "Findings")
_FINDING = CodedConcept("121071", "DCM", "Finding")
_REGION = CodedConcept("111030", "DCM", "Image Region")
_SOURCE = CodedConcept("121112", "DCM", "Source of Measurement")
_COMMENT = CodedConcept("121106", "DCM", "Comment")
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def structured_report(report: Report, image: bytes) -> bytes:
    """``report`` about the DICOM file ``image`` as a DICOM file; partial and unverified, as no physician has seen it.

    Raises:
        RequestRefusedError: 422, the image lacks what an SR must refer to.
    """
    source = pydicom.dcmread(io.BytesIO(image), stop_before_pixels=True)
    if not all(getattr(source, name, None) for name in _NEEDED):
        raise RequestRefusedError(422, f"format dicom-sr needs an image that has {', '.join(_NEEDED)}")
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"):
        if name not in source:  # type 2: the element must be there, and may be empty
            setattr(source, name, "")
    for name in ("AccessionNumber", "ReferringPhysicianName"):
        if name not in source:
            setattr(source, name, "")
    content = ContainerContentItem(_REPORT, is_content_continuous=False, template_id="2000")
    findings = ContainerContentItem(_FINDINGS, relationship_type=RelationshipTypeValues.CONTAINS)
    findings.ContentSequence = ContentSequence([_finding(sentence, source) for sentence in report.sentences])
    notice = TextContentItem(_COMMENT, _noted(report), RelationshipTypeValues.CONTAINS)
    content.ContentSequence = ContentSequence([notice, findings] if report.sentences else [notice])
    document = ComprehensiveSR(
        evidence=[source],
        content=content,
        series_instance_uid=UID(),
        series_number=1,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="BoxMed-RL",
        manufacturer_model_name=report.model.name[:64],
        software_versions=f"{__version__} {report.model.adapter_version}",
        device_serial_number=report.model.backbone_version,
        series_description="Research use only",
        is_complete=False,
        is_final=False,
        is_verified=False,
    )
    written = io.BytesIO()
    document.save_as(written)
    return written.getvalue()


def _finding(sentence: Sentence, source: Any) -> TextContentItem:
    item = TextContentItem(_FINDING, sentence.text, RelationshipTypeValues.CONTAINS)
    places = list(_places(sentence.boxes or (), source))
    if places:
        item.ContentSequence = ContentSequence(places)
    return item


def _places(boxes: Any, source: Any) -> Iterator[ScoordContentItem]:
    box: BoxPixels
    for box in boxes:
        x1, y1, x2, y2 = box
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]])
        place = ScoordContentItem(
            _REGION, GraphicTypeValues.POLYLINE, corners, relationship_type=RelationshipTypeValues.INFERRED_FROM
        )
        image = ImageContentItem(
            _SOURCE, source.SOPClassUID, source.SOPInstanceUID, relationship_type=RelationshipTypeValues.SELECTED_FROM
        )
        place.ContentSequence = ContentSequence([image])
        yield place


def _noted(report: Report) -> str:
    return f"{report.notice} Written by {report.model.adapter} on {report.model.backbone_version}."
