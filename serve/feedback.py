"""Readers' verdicts on what was served: a file that is only ever appended to.

What lives here: what a verdict holds, and writing it. What does not: the route (api.py), making studies of verdicts
(boxmed_ray/data/feedback.py).

An image is kept only where the reader's site has said so at start (``--feedback-images``), as the pixels that the model
saw: no header, no name, no identifier comes with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.schemas import MODEL_EXAMPLE, BoxPixels, ModelInfo


class Feedback(BaseModel):
    """Body of ``POST /v1/feedback``: a reader's word on one sentence of a report."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "report": "f25ea5a5-8e08-4e14-950c-5627d2c7e9c1",
                    "sentence": 0,
                    "text": "There is a small opacity in the left lung.",
                    "verdict": "wrong",
                    "corrected": "There is a small opacity in the right lung.",
                    "boxes": [[112.0, 310.5, 290.2, 455.0]],
                    "width": 1024,
                    "height": 1024,
                    "image": "5f3a09c2d17be684",
                    "model": MODEL_EXAMPLE,
                }
            ]
        },
    )

    report: str = Field(pattern=r"^[0-9a-f-]{36}$", description="The report's id.")
    sentence: int = Field(ge=0, le=1000, description="Its number in the report, from 0.")
    text: str = Field(min_length=1, max_length=2000, description="The sentence as it was served.")
    verdict: Literal["right", "wrong", "unsure"]
    corrected: str | None = Field(None, min_length=1, max_length=2000, description="What it should say.")
    boxes: list[BoxPixels] | None = Field(
        None, max_length=50, description="Where it is, in pixels of the sent image; empty: there is nothing to show."
    )
    width: int | None = Field(None, gt=0, le=65_535, description="Pixels of the sent image; needed with boxes.")
    height: int | None = Field(None, gt=0, le=65_535)
    image: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{16}$",
        description="Digest of the image, as the report gave it; joins it to kept pixels.",
    )
    model: ModelInfo | None = Field(
        None, description="As the report gave it. Default: what is served now, which may have changed since the report."
    )

    @model_validator(mode="after")
    def _boxes_lie_inside(self) -> Feedback:
        if self.boxes and (self.width is None or self.height is None):
            raise ValueError("boxes need width and height of the sent image")
        for x1, y1, x2, y2 in self.boxes or ():
            if not (0 <= x1 < x2 <= (self.width or 0) and 0 <= y1 < y2 <= (self.height or 0)):
                raise ValueError("a box must lie inside the image, with x1 < x2 and y1 < y2")
        return self


class FeedbackFile:
    """Verdicts below a folder: ``feedback.jsonl``, and ``images/`` where pixels are kept."""

    def __init__(self, folder: Path, images: bool) -> None:
        self._folder, self.images = folder, images
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, feedback: Feedback, served: ModelInfo, key: str | None) -> str:
        """Write one verdict; returns its id. Whole lines only, on the disk before it returns.

        Args:
            feedback: what the reader says.
            served: versions that are kept where the verdict names none.
            key: id of the reader's API key.

        Raises:
            OSError: the disk is full, or may not be written.
        """
        line: dict[str, Any] = {
            "time": round(time.time(), 3),
            **feedback.model_dump(mode="json"),
            "model": (feedback.model or served).model_dump(mode="json"),
            "key": key,
        }
        line["id"] = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:16]
        data = (json.dumps(line) + "\n").encode()
        descriptor = os.open(self._folder / "feedback.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # replicas share the file
            size = os.fstat(descriptor).st_size
            written = os.write(descriptor, data)
            if written < len(data):  # the disk is full: half a line must not stay
                os.ftruncate(descriptor, size)
                raise OSError(28, "no space left for feedback")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return str(line["id"])

    def keep(self, image: Image.Image, digest: str) -> None:
        """Keep the pixels that the model saw, by their digest.

        Raises:
            OSError: the disk is full, or may not be written.
        """
        place = self._folder / "images" / f"{digest}.png"
        if not self.images or place.exists():
            return
        place.parent.mkdir(exist_ok=True)
        beside = place.with_suffix(f".{uuid.uuid4().hex}")  # the same image may come several times at once
        image.save(beside, "PNG")
        beside.replace(place)


def pixels_digest(image: Image.Image) -> str:
    """Of the pixels that the model saw, 16 hexadecimal digits: it joins verdicts on one image, and names nobody."""
    held = io.BytesIO()
    image.save(held, "BMP")
    return hashlib.sha256(held.getvalue()).hexdigest()[:16]
