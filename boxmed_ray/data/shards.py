"""A data set built in pieces: planned as shards, each made whole or not at all, joined into one manifest.

What lives here: the plan, one shard, the end. What does not: who makes the shards and where (stages/build.py), the
smaller image (preprocess.py), the format (readers/manifest.py).

    TO/manifest.parquet      appears last
    TO/images/00000/ID.png   of shard 0
    TO/skipped.jsonl         what was left out, and why
    TO/.build/               plans and finished shards, until the manifest is there

A shard is known by a digest of all that decides it: words, boxes, options, and size and time of every image file. A
build that was killed goes on with the shards that are missing or whose digest is another.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from boxmed_ray import __version__
from boxmed_ray.data.images import decode_image, read_bytes
from boxmed_ray.data.perceptual_hash import perceptual_hash
from boxmed_ray.data.preprocess import PAPER_SCALE, shrink_opened
from boxmed_ray.data.readers import ImageHashes, Item, Located, SkippedStudy
from boxmed_ray.data.readers.manifest import manifest_head, manifest_row, manifest_schema, read_origin
from boxmed_ray.data.study import DataError, Study

MANIFEST: Final = "manifest.parquet"
SKIPPED: Final = "skipped.jsonl"
WORK: Final = ".build"
IMAGES: Final = "images"
_DIGEST_KEY: Final = b"boxmed_shard"
_SKIPPED_KEY: Final = b"boxmed_skipped"


@dataclass(frozen=True, slots=True)
class Size:
    """How large images become: a share of both sides, or at most so many pixels (preprocess.smaller_size)."""

    scale: float = PAPER_SCALE
    max_pixels: int | None = None

    @property
    def origin(self) -> dict[str, Any]:
        """For the record: what of it counts."""
        return {"scale": self.scale} if self.max_pixels is None else {"max_pixels": self.max_pixels}


@dataclass(frozen=True, slots=True)
class Shard:
    """One piece of the work: ``number``, and the digest of all that decides it."""

    number: int
    digest: str
    size: Size
    target: Path

    @property
    def plan(self) -> Path:
        """Its studies as they were read, a line each."""
        return self.target / WORK / f"plan-{self.number:05d}.jsonl"

    @property
    def table(self) -> Path:
        """Its part of the manifest."""
        return self.target / WORK / f"shard-{self.number:05d}.parquet"

    @property
    def images(self) -> Path:
        """Its images."""
        return self.target / IMAGES / f"{self.number:05d}"

    def done(self) -> bool:
        """Whether its table is there and made from the same."""
        import pyarrow.parquet as pq

        return self.table.is_file() and pq.read_schema(self.table).metadata.get(_DIGEST_KEY) == self.digest.encode()


@dataclass(frozen=True, slots=True)
class Plan:
    """All shards; ``skipped`` counts what the reader left out, ``studies`` the rest."""

    shards: tuple[Shard, ...]
    studies: int
    skipped: int
    target: Path

    @property
    def digest(self) -> str:
        """Of all that decides the data set."""
        return hashlib.sha256("".join(shard.digest for shard in self.shards).encode()).hexdigest()


def make_plan(items: Iterable[Item], target: Path, size: Size, shard_studies: int) -> Plan:
    """Write down what is to be done, a shard at a time; of the studies before it only names are held.

    Raises:
        DataError: nothing can be read, or a patient is in two splits.
    """
    (target / WORK).mkdir(parents=True, exist_ok=True)
    checked = _Checked(items)
    shards: list[Shard] = []
    studies = 0
    with (target / WORK / SKIPPED).open("w", encoding="utf-8") as skipped:
        for lines in _chunks(checked.lines(skipped), shard_studies):
            shard = Shard(len(shards), _digest(lines, size), size, target)
            shard.plan.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            shards.append(shard)
            studies += len(lines)
    return Plan(tuple(shards), studies, checked.skipped, target)


def build_shard(shard: Shard) -> dict[str, int]:
    """Write images and table of a shard; counts of studies ``built`` and ``skipped``.

    Raises:
        OSError: the target cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.rmtree(shard.images, ignore_errors=True)  # of a shard that was killed, or made from something else
    rows, skipped = [], []
    for line in shard.plan.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        try:
            rows.append(_build_study(Study.model_validate(entry["study"]), shard))
        except DataError as error:
            skipped.append(asdict(SkippedStudy(entry["study"]["id"], f"{entry['where']}: image: {error}")))
    schema = manifest_schema({}, hashes=True)
    marks = {_DIGEST_KEY: shard.digest.encode(), _SKIPPED_KEY: json.dumps(skipped).encode()}
    temporary = shard.table.with_name(f".{shard.table.name}.{os.getpid()}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.with_metadata(marks)), temporary)
    os.replace(temporary, shard.table)
    return {"built": len(rows), "skipped": len(skipped)}


def finish(plan: Plan, origin: Mapping[str, Any]) -> Path:
    """Join the tables, in order and one at a time, into the manifest; drop what only the work needed."""
    import pyarrow.parquet as pq

    schema = manifest_schema(manifest_head({**origin, "version": __version__, "input": plan.digest}), hashes=True)
    manifest = plan.target / MANIFEST
    temporary = manifest.with_name(f".{manifest.name}.tmp")
    with pq.ParquetWriter(temporary, schema) as writer:
        for shard in plan.shards:
            writer.write_table(pq.read_table(shard.table).replace_schema_metadata(schema.metadata))
    listed = plan.target / f".{SKIPPED}.tmp"
    with listed.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(problem)) + "\n" for problem in skipped_studies(plan))
    used = {shard.images.name for shard in plan.shards}
    for folder in (plan.target / IMAGES).iterdir():
        if folder.name not in used:  # of a longer plan that was given up
            shutil.rmtree(folder)
    os.replace(listed, plan.target / SKIPPED)
    os.replace(temporary, manifest)
    shutil.rmtree(plan.target / WORK)
    return manifest


def skipped_studies(plan: Plan) -> Iterator[SkippedStudy]:
    """What the reader left out, then whose images cannot be used."""
    import pyarrow.parquet as pq

    with (plan.target / WORK / SKIPPED).open(encoding="utf-8") as file:
        yield from (SkippedStudy(**json.loads(line)) for line in file)
    for shard in plan.shards:
        marks = pq.read_schema(shard.table).metadata
        yield from (SkippedStudy(**problem) for problem in json.loads(marks[_SKIPPED_KEY]))


def find_built(plan: Plan) -> tuple[int, int] | None:
    """Studies and left-out ones of the target's finished manifest, where it is this plan's; None where it has none.

    Raises:
        DataError: it holds the manifest of another plan.
    """
    import pyarrow.parquet as pq

    manifest = plan.target / MANIFEST
    if not manifest.is_file():
        return None
    shutil.rmtree(plan.target / WORK)
    if read_origin(manifest).get("input") != plan.digest:
        raise DataError(f"{manifest}: was built from something else, or otherwise; give another folder with --to")
    with (plan.target / SKIPPED).open("rb") as skipped:
        return pq.read_metadata(manifest).num_rows, sum(1 for _ in skipped)


def _build_study(study: Study, shard: Shard) -> dict[str, Any]:
    data = read_bytes(study.image)
    image = decode_image(data, study.image)
    smaller = shrink_opened(image, study, shard.images, shard.size.scale, shard.size.max_pixels)
    hashes = ImageHashes(
        sha256=hashlib.sha256(smaller.image.read_bytes()).hexdigest(),
        source_sha256=hashlib.sha256(data).hexdigest(),
        perceptual_hash=perceptual_hash(image),
    )
    return manifest_row(smaller, shard.target.absolute()) | hashes._asdict()


class _Checked:
    """The studies of a source as lines of a plan, after the checks that need all of them."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self._ids: set[str] = set()
        self._splits: dict[tuple[str, str], str] = {}
        self.skipped = 0

    def lines(self, skipped: Any) -> Iterator[str]:
        """JSON lines; what cannot be used goes into the file ``skipped``."""
        for item in self._items:
            problem = item if isinstance(item, SkippedStudy) else self._problem(item)
            if problem is not None:
                self.skipped += 1
                skipped.write(json.dumps(asdict(problem)) + "\n")
            elif isinstance(item, Located):
                yield json.dumps({"where": item.where, "study": item.study.model_dump(mode="json")})

    def _problem(self, item: Located) -> SkippedStudy | None:
        study = item.study
        if study.id in self._ids:
            reason = (
                f"{item.where}: id = {study.id!r}: the id of an earlier study too; give each study an id of its own"
            )
            return SkippedStudy(study.id, reason)
        self._ids.add(study.id)
        split = self._splits.setdefault((study.source, study.patient_id), study.split)
        if split != study.split:
            raise DataError(
                f"{item.where}: patient_id = {study.patient_id!r}: in split {study.split!r}, and in split {split!r} "
                "before; put all studies of a patient into one split"
            )
        return None


def _chunks(lines: Iterator[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _digest(lines: list[str], size: Size) -> str:
    """Of studies, options, and what tells that an image file is another without reading it."""
    digest = hashlib.sha256(json.dumps([__version__, size.origin]).encode())
    for line in lines:
        image = json.loads(line)["study"]["image"]
        digest.update(f"{line}{_stamp(image)}\n".encode())
    return digest.hexdigest()


def _stamp(image: str) -> str:
    try:
        stat = os.stat(image)
    except OSError:
        return "missing"
    return f"{stat.st_size} {stat.st_mtime_ns}"
