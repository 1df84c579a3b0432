"""A report as a FHIR R4 DiagnosticReport, with an Observation for each sentence.

What lives here: the mapping. What does not: patients, orders and encounters: the service knows none, and whoever takes
the resource into a record adds ``subject`` and ``basedOn``. Profile: http://hl7.org/fhir/R4/diagnosticreport.html.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

from serve.schemas import Report, Sentence

MEDIA = "application/fhir+json"
_LOINC = "http://loinc.org"
_DIAGNOSTIC_SERVICE = "http://terminology.hl7.org/CodeSystem/v2-0074"
_OBSERVATION = "http://terminology.hl7.org/CodeSystem/observation-category"
_EXTENSION = "urn:boxmed:fhir:"


def diagnostic_report(report: Report) -> dict[str, Any]:
    """``report`` as a DiagnosticReport; preliminary, as no physician has seen it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    device = {
        "resourceType": "Device",
        "id": "model",
        "deviceName": [{"name": report.model.name, "type": "model-name"}],
        "version": [
            {"type": {"text": "backbone"}, "value": report.model.backbone_version},
            {"type": {"text": "adapter"}, "value": report.model.adapter_version},
        ],
        "note": [{"text": report.notice}],
    }
    observations = [
        _observation(sentence, f"sentence-{number}", now) for number, sentence in enumerate(report.sentences)
    ]
    resource = {
        "resourceType": "DiagnosticReport",
        "id": report.id,
        # FHIR has neither empty lists nor contained resources that nothing refers to.
        "contained": [device, *observations] if observations else None,
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{report.id}"}],
        "status": "preliminary",
        "category": [{"coding": [{"system": _DIAGNOSTIC_SERVICE, "code": "RAD", "display": "Radiology"}]}],
        "code": {"coding": [{"system": _LOINC, "code": "30745-4", "display": "XR Chest Views"}]},
        "issued": now.replace("+00:00", "Z"),
        "performer": [{"display": f"{report.model.name}: {report.notice}"}],
        "result": [{"reference": f"#{one['id']}"} for one in observations] or None,
        "conclusion": report.report or "(empty)",
        "presentedForm": [
            {"contentType": "text/plain; charset=utf-8", "data": b64encode(report.report.encode()).decode()}
        ]
        if report.report
        else None,
    }
    return {name: value for name, value in resource.items() if value is not None}


def _observation(sentence: Sentence, name: str, now: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "resourceType": "Observation",
        "id": name,
        "status": "preliminary",
        "category": [{"coding": [{"system": _OBSERVATION, "code": "imaging", "display": "Imaging"}]}],
        "code": {"text": sentence.disease or "Finding"},
        "effectiveDateTime": now,
        "device": {"reference": "#model"},
        "valueString": sentence.text,
    }
    if sentence.region:
        found["bodySite"] = {"text": sentence.region}
    notes = [sentence.reasoning] if sentence.reasoning else []
    if sentence.boxes is None:
        notes.append(
            "No place: the answer about it could not be read." if sentence.malformed else "No place was asked for."
        )
    if notes:
        found["note"] = [{"text": note} for note in notes]
    if sentence.boxes:
        found["component"] = [
            {
                "code": {"text": "bounding box, pixels of the sent image"},
                "extension": [
                    {
                        "url": f"{_EXTENSION}bounding-box",
                        "extension": [
                            {"url": side, "valueDecimal": value}
                            for side, value in zip(("x1", "y1", "x2", "y2"), box, strict=True)
                        ],
                    }
                ],
                "valueString": ", ".join(f"{value:g}" for value in box),
            }
            for box in sentence.boxes
        ]
    return found
