"""One file a data set: from the files as their owners publish them to studies.

What lives here: what every reader yields, how it names a bad study, and the split of data sets that
have none. What does not: checks across studies and of pixels (load.py).

A reader yields a ``Located`` study or a ``SkippedStudy`` for each study it finds, and raises
DataError where nothing can be read at all (a missing file, a missing column).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from boxmed_ray.data.study import Split, Study


@dataclass(frozen=True, slots=True)
class SkippedStudy:
    """A study that cannot be used; ``reason`` names the file, the line or key, the value and the remedy."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Located:
    """A study and where it was read, for messages about it."""

    study: Study
    where: str


Item = Located | SkippedStudy


def split_by_patient(source: str, patient_id: str, test_share: float) -> Split:
    """``test`` for about ``test_share`` of the patients, decided by a hash of the patient alone.

    The same in every run, whatever the seed, and unchanged when patients are added.
    """
    digest = hashlib.sha256(f"{source}/{patient_id}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < test_share * 2**64 else "train"


def locate(where: str, values: dict[str, Any]) -> Item:
    """Build a study from ``values``; what pydantic refuses becomes a SkippedStudy."""
    try:
        return Located(Study.model_validate(values), where)
    except ValidationError as error:
        return SkippedStudy(str(values.get("id", where)), explain(error, where))


def explain(error: ValidationError, where: str) -> str:
    """Pydantic's report as one line: where, which key, which value, what is wrong with it."""
    parts = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        # Without a key the input is the whole study, which nobody wants to read.
        parts.append(f"{key} = {_shortened(item['input'])}: {message}" if key else message)
    return f"{where}: {'; '.join(parts)}"


def _shortened(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
