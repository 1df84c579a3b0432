"""Study, Finding and Box: the one shape in which every data set reaches the rest of the code.

What lives here: the types, their own invariants and the errors they raise. What does not: reading
files (readers/), preparing pixels (images.py), the synonyms of the banks (knowledge.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from boxmed_ray.data.knowledge import DISEASES, REGIONS

SCHEMA_VERSION = 1

Split = Literal["train", "val", "test"]


class DataError(ValueError):
    """Bad input data. The message names what is wrong, where (file and line or key), and the remedy."""


class Box(NamedTuple):
    """Axis-aligned box, xyxy float pixels of the stored image, origin at the top left."""

    x1: float
    y1: float
    x2: float
    y2: float


class Finding(BaseModel):
    """One statement about one image: the words, where it is, and what the banks call it.

    ``boxes`` may be empty: a denied or diffuse finding has a phrase and no place.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    phrase: str = Field(min_length=1, description="The words, as a report would say them.")
    boxes: tuple[Box, ...] = Field((), description="xyxy float pixels of the stored image.")
    disease: str | None = Field(None, description="One of the 14 diseases, or None.")
    region: str | None = Field(None, description="One of the 12 regions, or None.")
    readings: tuple[tuple[Box, ...], ...] = Field(
        (),
        description="The boxes of each person who read the image, where several are known; empty for one who saw none.",
        exclude_if=lambda readings: not readings,  # most data sets have none, and their digests stay as they were
    )

    @field_validator("disease")
    @classmethod
    def _known_disease(cls, value: str | None) -> str | None:
        if value is not None and value not in DISEASES:
            raise ValueError(f"disease {value!r} is not in the bank; use one of: {', '.join(DISEASES)}")
        return value

    @field_validator("region")
    @classmethod
    def _known_region(cls, value: str | None) -> str | None:
        if value is not None and value not in REGIONS:
            raise ValueError(f"region {value!r} is not in the bank; use one of: {', '.join(REGIONS)}")
        return value

    @field_validator("boxes")
    @classmethod
    def _upright_boxes(cls, value: tuple[Box, ...]) -> tuple[Box, ...]:
        for box in value:
            if not all(math.isfinite(v) for v in box):
                raise ValueError(f"box {tuple(box)} has a coordinate that is not a finite number")
            if box.x2 <= box.x1 or box.y2 <= box.y1:
                raise ValueError(
                    f"box {tuple(box)} is inverted or empty; it must be (x1, y1, x2, y2) with x1 < x2 and y1 < y2"
                )
        return value

    @field_validator("readings")
    @classmethod
    def _upright_readings(cls, value: tuple[tuple[Box, ...], ...]) -> tuple[tuple[Box, ...], ...]:
        for boxes in value:
            cls._upright_boxes(boxes)
        return value


class Study(BaseModel):
    """One image with what is known about it.

    Raises pydantic's ValidationError (a ValueError) where a box leaves the image, is inverted, or a
    label is outside the banks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    patient_id: str = Field(min_length=1)
    image: Path = Field(description="The stored image; readers make it absolute.")
    width: int = Field(gt=0, description="Pixels of the stored image.")
    height: int = Field(gt=0, description="Pixels of the stored image.")
    view: str | None = None
    report: str | None = Field(None, description="The findings section.")
    findings: tuple[Finding, ...] = ()
    split: Split = "train"
    source: str = Field(min_length=1, description="Name of the data set.")

    @field_validator("id", "patient_id", "source", "view")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        # Names end up in tables and logs: a spreadsheet would run the first kind, a terminal the second.
        if value and (value[0] in "=+-@＝＋－＠" or not value.isprintable()):
            raise ValueError("must not begin with =, +, - or @ nor hold control characters; rename it")
        return value

    @model_validator(mode="after")
    def _boxes_inside(self) -> Study:
        for finding in self.findings:
            for box in (*finding.boxes, *(box for reading in finding.readings for box in reading)):
                if box.x1 < -0.5 or box.y1 < -0.5 or box.x2 > self.width + 0.5 or box.y2 > self.height + 0.5:
                    raise ValueError(
                        f"box {tuple(box)} of {finding.phrase!r} leaves the {self.width}x{self.height} image; "
                        "correct the box or the image size"
                    )
        return self


def check_patient_splits(studies: Iterable[Study]) -> None:
    """Raise DataError when one patient is in two splits: the test figures would be worth nothing."""
    seen: dict[tuple[str, str], str] = {}
    for study in studies:
        key = (study.source, study.patient_id)
        first = seen.setdefault(key, study.split)
        if first != study.split:
            raise DataError(
                f"patient of study {study.id!r} is in two splits ({first} and {study.split}); split by patient"
            )
