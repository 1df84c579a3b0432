"""The published archive of a RadGraph model, read and checked.

What lives here: where its files are and what its ``config.json`` and ``vocabulary/`` say. What does not: getting one
from the Hub (download.py), and its weights (model.py).

The archive is AllenNLP's: ``config.json``, ``vocabulary/NAME.txt`` (a label a line) and ``weights.th`` of a DyGIE++
model (Wadden et al. 2019). It names its text encoder and brings that encoder's weights, but neither its shape nor its
word pieces: those come from the Hub, or from a folder ``encoder/`` beside ``config.json`` with the encoder's own
``config.json`` and tokenizer files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rewards.radgraph.words import Variant

BY_HAND: Final = (
    "get radgraph.tar.gz or radgraph-xl.tar.gz from the repository StanfordAIMI/RRG_scorers of the Hugging Face Hub "
    "and name it, or the folder it unpacks to, in the configuration"
)
ENCODER: Final = "encoder"
"""Folder in the archive with the encoder's shape and word pieces, for machines that do not reach the Hub."""
PARTS: Final = ("config.json", "vocabulary", "weights.th")


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive says about its model.

    Attributes:
        folder: where its files are.
        encoder: name on the Hub, or folder, of the text encoder's shape and word pieces.
        max_length: word pieces that the encoder takes at once, with the two it adds.
        max_span_width: words in the longest entity.
        feature_size: length of the embedding of a span's width.
        hidden_dims: width of every hidden layer of the heads, in order.
        spans_per_word: spans kept for relations, as a multiple of the number of words.
        entity_labels: without the null label.
        relation_labels: without the null label.
        variant: which of the published models it is.
    """

    folder: Path
    encoder: str
    max_length: int
    max_span_width: int
    feature_size: int
    hidden_dims: tuple[int, ...]
    spans_per_word: float
    entity_labels: tuple[str, ...]
    relation_labels: tuple[str, ...]
    variant: Variant

    def digest(self) -> str:
        """SHA-256 over everything that decides an annotation, for the key of a cache."""
        total = hashlib.sha256()
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            name = file.relative_to(self.folder)
            if name.parts[0] not in (*PARTS, ENCODER):
                continue
            total.update(str(name).encode())
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()


def read_archive(path: Path, variant: Variant) -> Archive:
    """Read an archive's description.

    Args:
        path: the unpacked folder, or the ``.tar.gz`` as it is downloaded, which is unpacked beside itself once.
        variant: which of the published models it is.

    Raises:
        FileNotFoundError: the archive or a part of it is missing.
        ValueError: it holds a model of another kind or variant.
    """
    folder = _unpacked(path)
    for part in PARTS:
        if not (folder / part).exists():
            raise FileNotFoundError(f"{folder} is no RadGraph archive: it lacks {part}, one of {', '.join(PARTS)}")
    try:
        return _described(folder, json.loads((folder / "config.json").read_text("utf-8")), variant)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} does not describe a DyGIE++ model: {error!r}") from error


def _described(folder: Path, config: Mapping[str, Any], variant: Variant) -> Archive:
    model, modules = config["model"], config["model"]["modules"]
    embedder = model["embedder"]["token_embedders"]["bert"]
    heads = model["feedforward_params"]
    if modules["coref"].get("coref_prop", 0) > 0:
        raise ValueError(f"{folder}: a model that propagates coreference (coref_prop > 0) is not supported")
    null, *entity_labels = _labels(folder, variant, "ner")
    if null:
        raise ValueError(f"{folder}: the first entity label is {null!r}, but DyGIE++ puts an empty one there")
    encoder = folder / ENCODER
    return Archive(
        folder=folder,
        encoder=str(encoder) if encoder.is_dir() else embedder["model_name"],
        max_length=embedder["max_length"],
        max_span_width=model["max_span_width"],
        feature_size=model["feature_size"],
        hidden_dims=(heads["hidden_dims"],) * heads["num_layers"],
        spans_per_word=modules["relation"]["spans_per_word"],
        entity_labels=tuple(entity_labels),
        relation_labels=tuple(_labels(folder, variant, "relation")),
        variant=variant,
    )


def _labels(folder: Path, variant: Variant, kind: str) -> list[str]:
    file = folder / "vocabulary" / f"{variant}__{kind}_labels.txt"
    if not file.exists():
        others = ", ".join(sorted(path.name for path in file.parent.iterdir()))
        raise ValueError(f"{folder} is no archive of {variant!r}: its vocabulary has {others}, but no {file.name}")
    return file.read_text("utf-8").removesuffix("\n").split("\n")


def _unpacked(path: Path) -> Path:
    if path.is_dir():
        return path
    if not path.is_file():
        raise FileNotFoundError(f"RadGraph's archive {path} does not exist; {BY_HAND}")
    if not path.name.endswith(".tar.gz"):
        raise ValueError(f"RadGraph's archive {path} is neither a folder nor a .tar.gz")
    folder = path.with_name(path.name.removesuffix(".tar.gz"))
    if not folder.exists():
        unpack(path, folder)
    return folder


def unpack(tarball: Path, folder: Path) -> None:
    """Unpack an archive into ``folder``, which appears whole or not at all; a faster process's is kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with tarfile.open(tarball) as tar:
            tar.extractall(partial, filter="data")
        with contextlib.suppress(OSError):
            partial.rename(folder)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{tarball} cannot be unpacked ({error}); is the download complete?") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
