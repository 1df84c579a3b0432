"""A run whose ``runs_dir`` is a URI: worked on in a local folder, of which a copy is kept there.

What lives here: what is uploaded, when and in which order, and what a resume on another machine gets back. What does
not: filesystems (remote.py), checkpoints themselves (checkpoint.py).

What the copy holds is whole at any moment, on stores that cannot rename a folder too: a checkpoint counts once its
manifest is there, which is uploaded last; a stage counts once its ``done.json`` is; metrics are never behind the
checkpoints. Everything is uploaded by the same idempotent ``sync``, so whatever failed is tried again with the next.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from boxmed_ray.checkpoint import BEST, MANIFEST, PREFIX, CheckpointError
from boxmed_ray.config import RunConfig, is_uri
from boxmed_ray.remote import RemoteFolder, open_folder, refusing

log = logging.getLogger(__name__)

WRITER: Final = "writer.json"
"""Who writes the copy. The same file in a local folder says that nobody else has gone on with the run since."""
_FIRST: Final = (
    *("config.yaml", "provenance.jsonl", "metrics.jsonl", "events.jsonl", "tracked.json", "tensorboard/*"),
    *("evaluation/*.json*", "stages/*/progress.jsonl"),
)
_LAST: Final = ("report.html", "summary.json")
_DONE: Final = "done.json"
_CHECKPOINTS: Final = "checkpoints"
_NOT_OF_A_STAGE: Final = (_CHECKPOINTS, "ray", "stop", "progress.jsonl", _DONE)
_MARKS: Final = (
    f"stages/*/{_CHECKPOINTS}/{PREFIX}*/{MANIFEST}", f"stages/*/{_CHECKPOINTS}/{BEST}", f"stages/*/{_DONE}",
    "summary.json",
)  # fmt: skip
_OF_A_CHECKPOINT: Final = re.compile(rf"(stages/[^/]+)/{_CHECKPOINTS}/(?:({PREFIX}\d+)/|{re.escape(BEST)}$)")
_POLL_S: Final = 1.0


class MirrorError(CheckpointError):
    """The run is not, or not wholly, where its URI says. The message names both places and the remedy."""


class Mirror:
    """The copy of one run.

    Args:
        folder: that the run is worked on in.
        remote: the run's folder at the URI.
    """

    def __init__(self, folder: Path, remote: RemoteFolder) -> None:
        self.folder, self.remote = folder, remote
        self._claim = b""
        self._sent: dict[str, tuple[int, int]] = {}
        self._whole: set[tuple[str, bytes]] = set()

    def begin(self, *, resume: bool) -> None:
        """Say that this process writes from now on; for a resume, have the run in the local folder.

        A local folder that another machine has gone on from is set aside, and the copy downloaded instead.

        Raises:
            ConfigError: the place cannot be read or written.
        """
        with refusing(self.remote):
            claim = self._local_claim()
            current = resume and claim is not None and claim == self.remote.read(WRITER)
            self._claim = claim if current and claim else _new_claim()
            self.remote.write(WRITER, self._claim)
            if current:
                return
            if self.folder.exists():
                _tell(f"{self.folder} is not the state of {self.remote.uri}: kept as {_set_aside(self.folder)}")
            if resume:
                self._download()

    def sync(self) -> None:
        """Upload what is new.

        Raises:
            OSError: the filesystem failed; what is there is whole, and another call goes on.
            MirrorError: another process has gone on with this run.
        """
        self._check_claim()
        # Listed before the metrics are read: what is in the list is in the metrics too.
        stages = sorted(self.folder.glob("stages/*"))
        checkpoints = {stage: sorted(stage.glob(f"{_CHECKPOINTS}/{PREFIX}*")) for stage in stages}
        (self.folder / WRITER).write_bytes(self._claim)
        self._send_files(_FIRST)
        for stage in stages:
            if checkpoints[stage]:
                self._send_checkpoints(stage, checkpoints[stage])
            if (stage / _DONE).is_file():
                self._send_stage(stage)
        self._send_files(_LAST)

    def marks(self) -> frozenset[tuple[str, int]]:
        """Names and times of what is worth an upload; another set means that there is something new."""
        found = set()
        for path in (path for pattern in _MARKS for path in self.folder.glob(pattern)):
            with suppress(FileNotFoundError):  # dropped since it was listed
                found.add((str(path), path.stat().st_mtime_ns))
        return frozenset(found)

    def forget(self) -> None:
        """Nothing came of the run: leave no trace of it that nothing else has left."""
        with suppress(OSError):  # the error that led here is the one to tell
            self.remote.remove(WRITER)

    def _local_claim(self) -> bytes | None:
        path = self.folder / WRITER
        return path.read_bytes() if path.is_file() else None

    def _check_claim(self) -> None:
        there = self.remote.read(WRITER)
        if there != self._claim:
            who = there.decode(errors="replace") if there else "it is gone"
            raise MirrorError(f"{self.remote.uri}: another process has gone on with this run since ({WRITER}: {who})")

    def _send_files(self, patterns: Iterable[str]) -> None:
        for path in (path for pattern in patterns for path in sorted(self.folder.glob(pattern))):
            self._send(path)

    def _send(self, path: Path) -> None:
        """Upload a file that has changed since this process uploaded it last."""
        name, stat = path.relative_to(self.folder).as_posix(), path.stat()
        mark = (stat.st_size, stat.st_mtime_ns)
        if self._sent.get(name) != mark:
            self.remote.upload(path, name)
            self._sent[name] = mark

    def _send_stage(self, stage: Path) -> None:
        """Upload what a stage left, its ``done.json`` last."""
        done = stage / _DONE
        name = done.relative_to(self.folder).as_posix()
        if name in self._sent or self.remote.read(name) == done.read_bytes():
            return
        own = (entry for entry in stage.iterdir() if entry.name not in _NOT_OF_A_STAGE)
        for path in _files(entry for entry in own if not entry.name.startswith(".")):
            self._send(path)
        self._send(done)

    def _send_checkpoints(self, stage: Path, checkpoints: list[Path]) -> None:
        """Upload new checkpoints, then remove those that are no more here: the best one is never missing there."""
        for checkpoint in checkpoints:
            self._send_checkpoint(checkpoint)
        best = stage / _CHECKPOINTS / BEST
        if best.is_file():
            self._send(best)
        there = self.remote.folder(checkpoints[0].parent.relative_to(self.folder).as_posix())
        kept = {checkpoint.name for checkpoint in checkpoints}
        for name in there.names():
            if name.startswith(PREFIX) and name not in kept:
                there.remove(f"{name}/{MANIFEST}")
                there.remove_folder(name)

    def _send_checkpoint(self, checkpoint: Path) -> None:
        name = checkpoint.relative_to(self.folder).as_posix()
        try:
            manifest = (checkpoint / MANIFEST).read_bytes()
            if (name, manifest) in self._whole:
                return
            if self.remote.read(f"{name}/{MANIFEST}") != manifest:
                self.remote.remove(f"{name}/{MANIFEST}")  # what lies there is not whole from here on
                for path in _files([checkpoint]):
                    if path.name != MANIFEST:
                        self.remote.upload(path, f"{name}/{path.relative_to(checkpoint).as_posix()}")
                self.remote.write(f"{name}/{MANIFEST}", manifest)
            self._whole.add((name, manifest))
        except FileNotFoundError:
            if checkpoint.exists():
                raise
            log.info("%s was dropped before it was uploaded", name)

    def _download(self) -> None:
        """The run as the copy has it, into a folder that takes its name when all is there."""
        files = self.remote.files()
        wanted = [name for name in files if _is_wanted(name, set(files))]
        _tell(f"downloading {self.remote.uri} to {self.folder} ({len(wanted)} files)")
        part = self.folder.with_name(f".{self.folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        for name in wanted:
            self.remote.download(name, part / name)
        (part / WRITER).write_bytes(self._claim)
        part.rename(self.folder)


@contextmanager
def mirrored(config: RunConfig, *, resume: bool) -> Iterator[None]:
    """Keep the copy of a run up to date during the block; nothing happens where ``runs_dir`` is a folder.

    An upload that fails is told in the log and tried again with the next checkpoint; training goes on.

    Raises:
        ConfigError: before the block, the place cannot be used.
        MirrorError: after a block that ended well, the last upload failed.
    """
    if not is_uri(config.runs_dir):
        yield
        return
    mirror = Mirror(config.folder, open_folder(config.runs_dir).folder(config.name))
    mirror.begin(resume=resume)
    follower = _Follower(mirror)
    follower.start()
    try:
        yield
    except BaseException:
        follower.stop()
        if mirror.marks() or resume:
            follower.sync()
        else:
            mirror.forget()
        raise
    follower.stop()
    try:
        mirror.sync()
    except Exception as error:
        raise MirrorError(
            f"the run is finished in {mirror.folder}, and its upload to {mirror.remote.uri} failed: {error}. "
            f"boxmed train --resume {config.name} --runs-dir '{config.runs_dir}' uploads what is missing"
        ) from error


class _Follower(threading.Thread):
    """Uploads beside the training whenever there is something new.

    Wait for it with ``stop``, which a signal may interrupt (see stages/supervised.py on ``join``).
    """

    def __init__(self, mirror: Mirror) -> None:
        super().__init__(name="mirror", daemon=True)
        self._mirror = mirror
        self._seen: frozenset[tuple[str, int]] = frozenset()  # a resume looks for what was not uploaded before it
        self._end, self._ended = threading.Event(), threading.Event()

    def run(self) -> None:
        while not self._end.wait(_POLL_S):
            marks = self._mirror.marks()
            if marks != self._seen:
                self._seen = marks
                self.sync()
        self._ended.set()

    def sync(self) -> None:
        """Upload, or say that it failed: training does not depend on it."""
        try:
            self._mirror.sync()
        except Exception as error:
            log.error(
                "UPLOAD TO %s FAILED: %s. Nothing is lost in %s; tried again with the next checkpoint",
                self._mirror.remote.uri, error, self._mirror.folder,
            )  # fmt: skip

    def stop(self) -> None:
        """Wait for an upload that goes on, and start no further one."""
        self._end.set()
        self._ended.wait()


def _is_wanted(name: str, there: set[str]) -> bool:
    """Whether a resume needs a file: all but checkpoints of stages that are done, and what is not whole."""
    of = _OF_A_CHECKPOINT.match(name)
    if of is None:
        return name != WRITER
    stage, checkpoint = of.groups()
    if f"{stage}/{_DONE}" in there:
        return False
    return checkpoint is None or f"{stage}/{_CHECKPOINTS}/{checkpoint}/{MANIFEST}" in there


def _files(roots: Iterable[Path]) -> list[Path]:
    """Files in folders and files, without hidden ones, which are of a writer at work."""
    found = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*"))]
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _new_claim() -> bytes:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"id": uuid.uuid4().hex, "host": socket.gethostname(), "since": since}).encode()


def _set_aside(folder: Path) -> Path:
    target = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}")
    folder.rename(target)
    return target


def _tell(message: str) -> None:
    """For the person who waits, as pipeline.log does."""
    print(message, file=sys.stderr, flush=True)
