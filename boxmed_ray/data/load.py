"""From a config to studies that are known to be good: read, checked across studies, every image decoded.

What lives here: the choice of reader, the checks that need all studies or their pixels, and what
happens to bad ones. What does not: file layouts (readers/), pixels (images.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from boxmed_ray import __version__
from boxmed_ray.config import DataConfig
from boxmed_ray.data.concept_map import load_concepts
from boxmed_ray.data.images import ImageStore, decode_image, keep_square, read_bytes
from boxmed_ray.data.readers import Item, Located, SkippedStudy, find_reader
from boxmed_ray.data.readers.manifest import find_manifest, read_manifest, read_origin, write_manifest
from boxmed_ray.data.study import DataError, Split, Study

MANIFEST: Final = "manifest.jsonl"
SKIPPED: Final = "skipped.jsonl"
_SHOWN: Final = 5
"""Bad studies named in one message; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Studies whose files are known to be readable.

    Attributes:
        studies: in the order of the source.
        skipped: what ``skip_corrupt`` left out, and why.
        hash: of every word, box, split and image byte; independent of where the files lie.
        images: gives the pixels of a study at the size the model sees.
    """

    studies: tuple[Study, ...]
    skipped: tuple[SkippedStudy, ...]
    hash: str
    images: ImageStore

    def split(self, name: Split) -> list[Study]:
        """The studies of one split."""
        return [study for study in self.studies if study.split == name]


def load_studies(config: DataConfig, seed: int, cache_folder: Path) -> Dataset:
    """Read the data set of ``config`` and check all of it.

    Args:
        config: which data set; nothing else of a run matters here.
        seed: of phantoms; other data sets do not depend on it.
        cache_folder: gets ``manifest.jsonl``, ``skipped.jsonl``, ``resized/`` and phantoms' ``images/``.

    Raises:
        DataError: a study is bad and ``config.skip_corrupt`` is off, a patient is in two splits, or
            nothing is left to train or to test on. The message names file, line or key, value and remedy.
    """
    load_concepts(config.concept_table)  # refuses a bad one before every image is decoded
    images = ImageStore(config.image_size, cache_folder / "resized")
    read, skipped = _without_duplicates(_read(config, seed, cache_folder))
    _check_patients(read)
    studies: list[Study] = []
    digest = hashlib.sha256()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for located, outcome in zip(read, pool.map(partial(_check_image, images=images), read), strict=True):
            if isinstance(outcome, SkippedStudy):
                skipped.append(outcome)
                continue
            studies.append(located.study)
            digest.update(f"{located.study.model_dump_json(exclude={'image'})}{outcome}\n".encode())
    corrupt = [problem for problem in skipped if not problem.by_rule]
    if corrupt and not config.skip_corrupt:
        raise DataError(_refusal(corrupt))
    _check_splits(studies, config, skipped)
    _write_record(cache_folder, config, seed, studies, skipped)
    return Dataset(tuple(studies), tuple(skipped), digest.hexdigest(), images)


def _read(config: DataConfig, seed: int, cache_folder: Path) -> Iterator[Item]:
    """The items of the configured reader."""
    if config.kind == "phantom":
        return _phantoms(config, seed, cache_folder)
    if config.root is None:
        raise DataError(f"data.kind {config.kind!r} needs data.root, the folder of the data set")
    return read_items(config.kind, config.root, config.test_share)


def read_items(kind: str, root: Path, test_share: float) -> Iterator[Item]:
    """What the reader of ``data.kind`` finds at ``root``; phantoms have no root, and so no reader.

    Raises:
        DataError: nothing can be read there.
    """
    try:
        if kind == "manifest":
            yield from read_manifest(find_manifest(root), test_share)
        else:
            yield from find_reader(kind)(root, test_share)
    except OSError as error:
        what = error.strerror or error
        raise DataError(f"{error.filename or root}: cannot be read ({what}); check its permissions") from error


def _phantoms(config: DataConfig, seed: int, cache_folder: Path) -> Iterator[Item]:
    """Phantoms of an earlier call with the same arguments, else new ones."""
    kept = cache_folder / MANIFEST
    if kept.is_file() and read_origin(kept) == _origin(config, seed):
        items = list(read_manifest(kept))
        if all(isinstance(item, Located) and item.study.image.is_file() for item in items):
            yield from items
            return
    from boxmed_ray.data.phantom import generate_phantoms

    folder = cache_folder / "images"
    for study in generate_phantoms(config.train_studies, config.test_studies, seed, folder):
        yield Located(study, str(folder))


def _without_duplicates(items: Iterable[Item]) -> tuple[list[Located], list[SkippedStudy]]:
    """Good items and bad ones; the second study of an id is a bad one."""
    first: dict[str, str] = {}
    read: list[Located] = []
    skipped: list[SkippedStudy] = []
    for item in items:
        if isinstance(item, SkippedStudy):
            skipped.append(item)
        elif item.study.id in first:
            reason = (
                f"{item.where}: id = {item.study.id!r}: the id of the study at {first[item.study.id]} too; "
                "give each study an id of its own"
            )
            skipped.append(SkippedStudy(item.study.id, reason))
        else:
            first[item.study.id] = item.where
            read.append(item)
    return read, skipped


def _check_patients(read: Iterable[Located]) -> None:
    """One patient in two splits is never skipped: nobody can say which of the studies is wrong."""
    seen: dict[tuple[str, str], Located] = {}
    for item in read:
        study = item.study
        first = seen.setdefault((study.source, study.patient_id), item)
        if first.study.split != study.split:
            raise DataError(
                f"{item.where}: patient_id = {study.patient_id!r}: in split {study.split!r}, but in split "
                f"{first.study.split!r} at {first.where}; put all studies of a patient into one split"
            )


def _check_image(item: Located, images: ImageStore) -> str | SkippedStudy:
    """Decode one image in full and keep it resized; its digest, or what is wrong with it."""
    study = item.study
    try:
        data = read_bytes(study.image)
        image = decode_image(data, study.image)
        if image.size != (study.width, study.height):
            raise DataError(
                f"{study.image}: is {image.width}x{image.height}, but its study says width = {study.width}, "
                f"height = {study.height}; boxes need the true size: correct the study or the image"
            )
    except DataError as error:
        return SkippedStudy(study.id, f"{item.where}: image: {error}")
    if images.cache is not None:
        keep_square(image, study.image, images.side, images.cache)
    return hashlib.sha256(data).hexdigest()


def _refusal(skipped: list[SkippedStudy]) -> str:
    count = len(skipped)
    lines = [problem.reason for problem in skipped[:_SHOWN]]
    if count > _SHOWN:
        lines.append(f"… and {count - _SHOWN} more")
    studies = "1 study" if count == 1 else f"{count} studies"
    lines.append(f"{studies} cannot be used: correct the above, or skip and list with --set data.skip_corrupt=true")
    return "\n".join(lines)


def _check_splits(studies: list[Study], config: DataConfig, skipped: list[SkippedStudy]) -> None:
    for split in ("train", "test"):
        if not any(study.split == split for study in studies):
            source = "phantoms" if config.root is None else str(config.root)
            raise DataError(
                f"{source}: no study in split {split!r} ({len(studies)} studies read, {len(skipped)} skipped); "
                f"give more patients or change data.test_share = {config.test_share}"
            )


def _origin(config: DataConfig, seed: int) -> dict[str, Any]:
    """What decides the studies of a run."""
    origin: dict[str, Any] = {"kind": config.kind, "version": __version__}
    if config.kind == "phantom":
        return origin | {"train": config.train_studies, "test": config.test_studies, "seed": seed}
    table = load_concepts(config.concept_table)
    return origin | {"root": str(config.root), "test_share": config.test_share, "concept_table": table.version}


def _write_record(
    folder: Path, config: DataConfig, seed: int, studies: list[Study], skipped: list[SkippedStudy]
) -> None:
    """Leave in the run folder what the run was trained on and what it was not."""
    write_manifest(folder / MANIFEST, studies, _origin(config, seed))
    lines = [json.dumps({"id": p.id, "reason": p.reason, "by_rule": p.by_rule}) for p in skipped]
    (folder / SKIPPED).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
