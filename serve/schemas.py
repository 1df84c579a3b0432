"""What goes in and out over HTTP: request, report, health and problem, as pydantic models.

What lives here: fields, units and examples (they become the OpenAPI page). What does not: how a report
is made (grounded.py) or how a request is read (api.py).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

BoxPixels = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the image that was sent, origin at the top left."""

NOTICE = "Research use only. Not a medical device; not for diagnosis or treatment."

MEDIA_PROBLEM = "application/problem+json"

MODEL_EXAMPLE: JsonDict = {
    "name": "phantom-cpu",
    "backbone_version": "9f2c61d0a8b34e57",
    "adapter": "phantom-cpu-41abf0c2d9e87365",
    "adapter_version": "41abf0c2d9e87365",
    "weight_version": 60,
}
_IMAGE_EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR42mNQWMCwQAEABIYBgUAIfjMAAAAASUVORK5CYII="
"""A PNG of 2 x 2 pixels."""


class ReportOptions(BaseModel):
    """What may be chosen about a report; in multipart requests each is a form field."""

    model_config = ConfigDict(extra="forbid")

    adapter: str | None = Field(
        None, description="Name of the adapter that writes, of GET /v1/models. Default: the run's."
    )
    grounding: bool = Field(True, description="Locate every sentence.")
    reasoning: bool = Field(True, description="Say what the model wrote between <think> and </think>.")
    max_tokens: int | None = Field(None, ge=1, le=4096, description="Tokens of the report at most. Default: the run's.")
    temperature: float = Field(0.0, ge=0, le=2, description="Of the report; 0 is greedy. Boxes are always greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Of the report.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Of the report's sampling.")
    format: Literal["json", "fhir", "dicom-sr"] = Field(
        "json", description="This JSON; a FHIR R4 DiagnosticReport; or a DICOM SR, for a DICOM image only."
    )
    stream: bool = Field(False, description="Server-sent events: text as it is written, then the report.")


class ReportRequest(ReportOptions):
    """JSON form of a request; multipart requests carry the image as a file, and the other fields as text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": _IMAGE_EXAMPLE, "grounding": True}]})

    image: str = Field(min_length=1, description="Base64 (RFC 4648) of a PNG, JPEG or DICOM file. No path, no URL.")


class GroundOptions(BaseModel):
    """What is to be located."""

    model_config = ConfigDict(extra="forbid")

    phrase: str = Field(min_length=1, max_length=1000, description="A finding or a sentence of a report.")


class GroundRequest(GroundOptions):
    """JSON form of a request to locate; multipart requests carry the image as a file."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": _IMAGE_EXAMPLE, "phrase": "Small opacity in the left lung."}]}
    )

    image: str = Field(min_length=1, description="Base64 (RFC 4648) of a PNG, JPEG or DICOM file. No path, no URL.")


class ImageInfo(BaseModel):
    """The image that was sent, upright (EXIF rotation applied, as viewers do); every box refers to its pixels."""

    width: int = Field(gt=0, description="Pixels.")
    height: int = Field(gt=0, description="Pixels.")
    digest: str = Field(description="Of the pixels that the model saw; joins verdicts on one image, and names nobody.")


class Sentence(BaseModel):
    """One sentence of the report and where the backbone sees it."""

    text: str
    disease: str | None = Field(description="One of the 14 diseases, as the reasoning names it, or null.")
    region: str | None = Field(description="One of the 12 regions, as the reasoning names it, or null.")
    boxes: list[BoxPixels] | None = Field(
        description="Boxes in pixels of the sent image; empty: the model answered that there is none to show; "
        "null: the model's answer could not be read (malformed), or was not asked for."
    )
    reasoning: str | None = Field(
        description="What the model wrote between <think> and </think>; null where it was not asked for."
    )
    malformed: bool = Field(description="The answer does not follow the required form; its boxes are not to be used.")
    truncated: bool = Field(description="The answer was cut off at the token limit.")

    @classmethod
    def not_located(cls, text: str) -> Self:
        """A sentence that the backbone was not asked about."""
        return cls(text=text, disease=None, region=None, boxes=None, reasoning=None, malformed=False, truncated=False)


class ModelInfo(BaseModel):
    """What answered. Versions are SHA-256 over the weight files, first 16 hexadecimal digits."""

    name: str = Field(max_length=300, description="Name of the run.")
    backbone_version: str = Field(max_length=300)
    adapter: str = Field(max_length=300, description="Name under which the engine holds the adapter.")
    adapter_version: str = Field(max_length=300)
    weight_version: int | None = Field(description="Learner updates behind the backbone, where the run recorded them.")


class Timings(BaseModel):
    """Milliseconds of wall time."""

    decode_ms: float = Field(description="Reading and checking the image.")
    report_ms: float = Field(description="Writing the report, waiting for the engine included.")
    ground_ms: float = Field(description="Locating all sentences, waiting for the engine included.")
    total_ms: float


REPORT_EXAMPLE: JsonDict = {
    "id": "f25ea5a5-8e08-4e14-950c-5627d2c7e9c1",
    "report": "There is a small opacity in the left lung. No pneumothorax.",
    "truncated": False,
    "sentences": [
        {
            "text": "There is a small opacity in the left lung.",
            "disease": "Lung Opacity",
            "region": "left lung",
            "boxes": [[612.0, 310.5, 790.2, 455.0]],
            "reasoning": "Lung Opacity -> left lung",
            "malformed": False,
            "truncated": False,
        },
        {
            "text": "No pneumothorax.",
            "disease": "No Finding",
            "region": "whole lung",
            "boxes": [],
            "reasoning": "No Finding -> whole lung",
            "malformed": False,
            "truncated": False,
        },
    ],
    "image": {"width": 1024, "height": 1024, "digest": "5f3a09c2d17be684"},
    "model": MODEL_EXAMPLE,
    "timings": {"decode_ms": 12.1, "report_ms": 160.4, "ground_ms": 120.9, "total_ms": 294.2},
    "notice": NOTICE,
}


class Report(BaseModel):
    """Answer of ``POST /v1/reports``."""

    model_config = ConfigDict(json_schema_extra={"examples": [REPORT_EXAMPLE]})

    id: str = Field(description="Of this request, as in the log.")
    report: str
    truncated: bool = Field(description="The report was cut off at the token limit.")
    sentences: list[Sentence]
    image: ImageInfo
    model: ModelInfo
    timings: Timings
    notice: str = NOTICE


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Unprocessable Content",
                    "status": 422,
                    "detail": "the image is truncated or damaged; send the whole file",
                    "instance": "urn:uuid:f25ea5a5-8e08-4e14-950c-5627d2c7e9c1",
                }
            ]
        }
    )

    type: str = Field("about:blank", description="URI reference of the kind of problem.")
    title: str = Field(description="The kind of problem, in short.")
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What was wrong with this request, and the remedy.")
    instance: str | None = Field(None, description="urn:uuid of this request.")


class Located(BaseModel):
    """Answer of ``POST /v1/ground``."""

    id: str = Field(description="Of this request, as in the log.")
    located: Sentence
    image: ImageInfo
    model: ModelInfo
    timings: Timings
    notice: str = NOTICE


class BatchLine(BaseModel):
    """One line of the answer of ``POST /v1/batches``: a report, or the problem with this image."""

    index: int = Field(description="Of the image among those that were sent, from 0.")
    report: Report | None = None
    problem: Problem | None = None


class Health(BaseModel):
    """Answer of ``GET /healthz`` when the engine is loaded."""

    status: Literal["ready"] = "ready"
    model: ModelInfo
