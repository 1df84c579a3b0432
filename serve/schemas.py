"""What goes in and out over HTTP: request, report, health and problem, as pydantic models.

What lives here: fields, units and examples (they become the OpenAPI page). What does not: how a report
is made (grounded.py) or how a request is read (api.py).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

BoxPixels = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the image that was sent, origin at the top left."""

NOTICE = "Research use only. Not a medical device; not for diagnosis or treatment."

MEDIA_PROBLEM = "application/problem+json"


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

    image: str = Field(min_length=1, description="Base64 (RFC 4648) of a PNG, JPEG or DICOM file. No path, no URL.")


class GroundOptions(BaseModel):
    """What is to be located."""

    model_config = ConfigDict(extra="forbid")

    phrase: str = Field(min_length=1, max_length=1000, description="A finding or a sentence of a report.")


class GroundRequest(GroundOptions):
    """JSON form of a request to locate; multipart requests carry the image as a file."""

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

    name: str = Field(description="Name of the run.")
    backbone_version: str
    adapter: str = Field(description="Name under which the engine holds the adapter.")
    adapter_version: str
    weight_version: int | None = Field(description="Learner updates behind the backbone, where the run recorded them.")


class Timings(BaseModel):
    """Milliseconds of wall time."""

    decode_ms: float = Field(description="Reading and checking the image.")
    report_ms: float = Field(description="Writing the report, waiting for the engine included.")
    ground_ms: float = Field(description="Locating all sentences, waiting for the engine included.")
    total_ms: float


class Report(BaseModel):
    """Answer of ``POST /v1/reports``."""

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
