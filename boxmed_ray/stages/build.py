"""Building a data set on Ray Data: shards that are missing, streamed through as many workers as there are CPUs.

What lives here: Ray, and what a target folder must be. What does not: what a shard is and how it is made
(data/shards.py).
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxmed_ray.data.readers import Item, SkippedStudy
from boxmed_ray.data.shards import (
    IMAGES,
    MANIFEST,
    SKIPPED,
    WORK,
    Shard,
    Size,
    build_shard,
    find_built,
    finish,
    make_plan,
    skipped_studies,
)
from boxmed_ray.data.study import DataError
from boxmed_ray.ray_local import ray_session

SHARD_STUDIES = 256
"""Studies of a shard: what a killed build does again for each worker, and what one task holds."""
_SHOWN = 5
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Built:
    """What a build left: its manifest, studies in it, studies left out, shards made now and found done."""

    manifest: Path
    studies: int
    skipped: int
    made: int
    found: int


def build(
    items: Iterable[Item],
    target: Path,
    origin: Mapping[str, Any],
    size: Size,
    *,
    skip_corrupt: bool = False,
    workers: int | None = None,
    shard_studies: int = SHARD_STUDIES,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Built:
    """Write images, hashes and manifest of a data set; called again after a kill, it goes on.

    Args:
        items: what a reader yields; read one after the other, in this process.
        target: an empty folder, a new one, or one that a build has begun.
        origin: for the manifest: what it was made from.
        size: of the images.
        skip_corrupt: leave studies out that cannot be used, instead of refusing.
        workers: at once, of a Ray started for it; None for one each CPU.
        shard_studies: studies of a shard.
        on_progress: called with studies done and all of them.

    Raises:
        DataError: the source or the target cannot be used. What was done so far is kept.
    """
    with _owned(target), _told(target):
        plan = make_plan(items, target, size, shard_studies)
        if not plan.studies:
            raise DataError(
                f"{target}: nothing to build: the source has no study that can be used ({plan.skipped} not)"
            )
        if (there := find_built(plan)) is not None:
            return Built(target / MANIFEST, *there, made=0, found=len(plan.shards))
        missing = [shard for shard in plan.shards if not shard.done()]
        done = plan.studies - sum(_studies(shard) for shard in missing)
        on_progress(done, plan.studies)
        for count in _streamed(missing, workers):
            done += count
            on_progress(done, plan.studies)
        skipped = list(skipped_studies(plan))
        corrupt = [problem for problem in skipped if not problem.by_rule]
        if corrupt and not skip_corrupt:
            raise DataError(_refusal(corrupt))
        left = plan.studies + plan.skipped - len(skipped)
        manifest = finish(plan, {**origin, **size.origin})
        return Built(manifest, left, len(skipped), made=len(missing), found=len(plan.shards) - len(missing))


def _streamed(shards: Sequence[Shard], workers: int | None) -> Iterator[int]:
    """Studies of each shard as it is done, in no order."""
    if not shards:
        return
    with ray_session(num_cpus=workers):
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # after the import, which sets it
        # A shard a block: the blocks are names, and what they stand for goes from file to file in a worker.
        names = [{"number": shard.number, "digest": shard.digest} for shard in shards]
        rows = ray.data.from_items(names, override_num_blocks=len(names))
        common = {"size": shards[0].size, "target": shards[0].target.absolute()}
        failure = ""
        for row in rows.map(_build_row, fn_kwargs=common, num_cpus=1).iter_rows():
            if failure := row["failure"]:
                break
            yield int(row["studies"])
    if failure:
        raise OSError(failure)


def _build_row(row: dict[str, Any], size: Size, target: Path) -> dict[str, Any]:
    """In a worker. Ray Data hands errors on as text with tracebacks: one of the disk goes as a value."""
    try:
        counts = build_shard(Shard(row["number"], row["digest"], size, target))
    except OSError as error:
        return {"studies": 0, "failure": str(error)}
    return {"studies": sum(counts.values()), "failure": ""}


def _studies(shard: Shard) -> int:
    with shard.plan.open("rb") as file:
        return sum(1 for _ in file)


@contextmanager
def _owned(target: Path) -> Iterator[None]:
    """The target, made if need be, for this process alone."""
    known = {WORK, IMAGES, MANIFEST, SKIPPED}
    try:
        target.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in target.iterdir() if not path.name.startswith((f".{MANIFEST}", f".{SKIPPED}"))}
        if names - known or (names and not names & {WORK, MANIFEST}):
            raise DataError(
                f"{target}: holds other files ({', '.join(sorted(names)[:3])}); give an empty folder with --to"
            )
        (target / WORK).mkdir(exist_ok=True)
        lock = (target / WORK / _LOCK).open("w")
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror}); give a writable folder with --to") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{target}: another build is at work there; wait for it, or give another --to") from None
        yield


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """A target that cannot be written in one message, whichever process found out."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error}); make room or give rights, and run the same command again: it "
            "goes on"
        ) from error


def _refusal(corrupt: Sequence[SkippedStudy]) -> str:
    lines = [problem.reason for problem in corrupt[:_SHOWN]]
    if len(corrupt) > _SHOWN:
        lines.append(f"… and {len(corrupt) - _SHOWN} more")
    lines.append(f"{len(corrupt)} cannot be used: correct the above, or leave them out with --skip-corrupt")
    return "\n".join(lines)
