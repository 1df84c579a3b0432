"""One file a data set: from the files as their owners publish them to studies.

What lives here: what every reader yields, how it names a bad study, and the split of data sets that
have none. What does not: checks across studies and of pixels (load.py).

A reader yields a ``Located`` study or a ``SkippedStudy`` for each study it finds, and raises
DataError where nothing can be read at all (a missing file, a missing column). It reads as it is asked:
tables may be held in memory, images and reports never.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from boxmed_ray.data.study import Split, Study


@dataclass(frozen=True, slots=True)
class SkippedStudy:
    """A study that cannot be used; ``reason`` names the file, the line or key, the value and the remedy.

    ``by_rule``: nothing is wrong with it, a rule of the data set leaves it out (a report without findings). It is
    counted and listed as all are, but no reason to refuse the data set.
    """

    id: str
    reason: str
    by_rule: bool = False

    def __post_init__(self) -> None:
        # Nobody has checked what is in a bad study's name: a terminal must not run it.
        for name in ("id", "reason"):
            object.__setattr__(self, name, printable(getattr(self, name)))


class ImageHashes(NamedTuple):
    """What a built manifest says of an image beside its study; hexadecimal.

    Attributes:
        sha256: of the file beside the manifest.
        source_sha256: of the file that it was made from.
        perceptual_hash: of the picture (perceptual_hash.py).
    """

    sha256: str
    source_sha256: str
    perceptual_hash: str


@dataclass(frozen=True, slots=True)
class Located:
    """A study and where it was read, for messages about it; ``hashes`` where its manifest has them."""

    study: Study
    where: str
    hashes: ImageHashes | None = None


Item = Located | SkippedStudy


Reader = Callable[[Path, float], Iterator[Item]]
"""From ``data.root``, and the share of patients held out where a data set has no splits, to its studies."""

_READERS: Final = {
    "nih": "nih.read_nih",
    "coco": "coco.read_coco",
    "ms-cxr": "ms_cxr.read_ms_cxr",
    "latte-cxr": "latte_cxr.read_latte_cxr",
    "mimic-cxr": "mimic_cxr.read_mimic_cxr",
    "iu-xray": "iu_xray.read_iu_xray",
    "vindr-cxr": "vindr_cxr.read_vindr_cxr",
    "chest-imagenome": "chest_imagenome.read_chest_imagenome",
    "padchest-gr": "padchest_gr.read_padchest_gr",
}


def find_reader(kind: str) -> Reader:
    """The reader of ``data.kind``, imported when it is asked for: most runs need one."""
    module, function = _READERS[kind].split(".")
    reader: Reader = getattr(import_module(f"{__name__}.{module}"), function)
    return reader


def split_by_patient(source: str, patient_id: str, test_share: float) -> Split:
    """``test`` for about ``test_share`` of the patients, decided by a hash of the patient alone.

    The same in every run, whatever the seed, and unchanged when patients are added.
    """
    digest = hashlib.sha256(f"{source}/{patient_id}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < test_share * 2**64 else "train"


def printable(text: str) -> str:
    """``text`` on one line, with control characters spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
