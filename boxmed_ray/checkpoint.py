"""Checkpoints of a stage: written beside and renamed into place, checked by digest when read.

What lives here: the folder of a stage's checkpoints, its manifests, which of them are kept, which one a resume uses.
What does not: what a stage puts into one (model/engine_state.py), copies of it elsewhere (mirror.py).

    checkpoints/step-00000120/{manifest.json, state.json, *.safetensors}
    checkpoints/best.json

A folder named ``step-…`` is complete: it gets that name only after everything in it is on disk. Names that begin
with a dot are of a writer at work, or of one that was killed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
BEST: Final = "best.json"
PREFIX: Final = "step-"
_STATE: Final = "state.json"


class CheckpointError(RuntimeError):
    """No checkpoint of a folder can be used, one is damaged, or one cannot be written.

    The message names it and the reason.
    """


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        folder: holds the files that the writer wrote.
        step: updates done when it was written.
        state: what the writer gave as ``state``, such as the data position and the weight version.
    """

    folder: Path
    step: int
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one stage. One process writes; any may read.

    Args:
        folder: made when the first one is written.
        keep: how many of the newest to keep, beside the best; 2 survive damage to the last.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep = {keep}: at least one checkpoint must be kept")
        self.folder, self.keep = folder, keep

    def save(
        self, step: int, state: dict[str, Any], write: Callable[[Path], None], score: float | None = None
    ) -> Checkpoint:
        """Write a checkpoint, name the best one in ``best.json``, and drop what is neither new enough nor the best.

        Checkpoints beyond ``step`` are dropped too: the run went back behind them because they are damaged.

        Args:
            step: updates done; a checkpoint of the same step is replaced.
            state: small, of JSON's types.
            write: puts its files into the folder it is given.
            score: the higher, the better; None or a number that is not finite never is the best.

        Raises:
            CheckpointError: it cannot be written (no space, no permission). Those before it are untouched.
        """
        name = f"{PREFIX}{step:08d}"
        temporary = self.folder / f".{name}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clean()
            temporary.mkdir()
            write(temporary)
            (temporary / _STATE).write_text(json.dumps(state, indent=1))
            known = score is not None and math.isfinite(score)
            manifest = {
                "format": FORMAT, "step": step, "score": score if known else None, "files": _digests(temporary),
            }  # fmt: skip
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
            _sync(temporary)
            self._put(temporary, self.folder / name)
            self._prune(step)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(self._unwritten(step, error)) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return Checkpoint(self.folder / name, step, state)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None when there is none at all.

        A damaged one is named in an error of the log, and the one before it is used.

        Raises:
            CheckpointError: there are checkpoints and every one is damaged. Starting over in silence
                would throw the run away.
        """
        reasons = []
        for folder in self._folders():
            try:
                return read_checkpoint(folder)
            except CheckpointError as error:
                log.error("DAMAGED CHECKPOINT, using the one before it: %s", error)
                reasons.append(str(error))
        if reasons:
            raise CheckpointError(
                f"no usable checkpoint in {self.folder}: {'; '.join(reasons)}. Remove the folder to start over"
            )
        return None

    def best(self) -> Checkpoint | None:
        """The checkpoint with the highest score; None when no one has a score.

        Raises:
            CheckpointError: it is damaged.
        """
        found = self._best()
        return None if found is None else read_checkpoint(found)

    def newest(self) -> Path | None:
        """Folder of the newest checkpoint, for messages: it is not checked."""
        return next(iter(self._folders()), None)

    def _clean(self) -> None:
        """Remove what killed writers left: it can be as large as a checkpoint."""
        for left in self.folder.glob(f".{PREFIX}*"):
            shutil.rmtree(left)

    def _put(self, temporary: Path, final: Path) -> None:
        old = _hide(final) if final.exists() else None
        os.replace(temporary, final)
        _sync_folder(self.folder)
        if old is not None:
            shutil.rmtree(old)

    def _prune(self, step: int) -> None:
        for beyond in [folder for folder in self._folders() if folder.name > f"{PREFIX}{step:08d}"]:
            shutil.rmtree(_hide(beyond))
        best = self._best()
        if best is not None:
            part = self.folder / f".{BEST}"
            part.write_text(json.dumps({"checkpoint": best.name, "score": _score(best)}))
            part.replace(self.folder / BEST)
        for old in self._folders()[self.keep :]:
            if old != best:
                shutil.rmtree(_hide(old))

    def _best(self) -> Path | None:
        """Of equal ones the newest."""
        scores = {folder: score for folder in self._folders() if (score := _score(folder)) is not None}
        return max(scores, key=scores.__getitem__, default=None)

    def _folders(self) -> list[Path]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((entry for entry in self.folder.iterdir() if entry.name.startswith(PREFIX)), reverse=True)

    def _unwritten(self, step: int, error: OSError) -> str:
        newest = self.newest()
        there = f"the last one there is {newest.name}" if newest else "there is none before it"
        return (
            f"the checkpoint of step {step} cannot be written to {self.folder}: {error.strerror or error}; {there}. "
            f"Free space or put the permission right, then go on with --resume"
        )


def read_checkpoint(folder: Path) -> Checkpoint:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: a file is missing, is of another size or digest, or the manifest cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files: dict[str, dict[str, Any]] = manifest["files"]
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{folder.name}: format {manifest['format']}, this version reads {FORMAT}")
        for name, expected in files.items():
            path = folder / name
            if not path.is_file():
                raise CheckpointError(f"{folder.name}: {name} is missing")
            if path.stat().st_size != expected["bytes"] or _sha256(path) != expected["sha256"]:
                raise CheckpointError(f"{folder.name}: {name} differs from what was written")
        return Checkpoint(folder, int(manifest["step"]), json.loads((folder / _STATE).read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder.name}: its manifest cannot be read ({error})") from error


def _hide(folder: Path) -> Path:
    """Take a checkpoint away in one step: removing it takes long enough to be killed, or to be read, in between."""
    hidden = folder.with_name(f".{folder.name}.old")
    os.replace(folder, hidden)
    return hidden


def _score(folder: Path) -> float | None:
    """The score in a manifest; None where there is none, or no manifest that can be read."""
    try:
        score = json.loads((folder / MANIFEST).read_text())["score"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return score if isinstance(score, int | float) else None


def _digests(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk, or a power cut can leave the name without the files.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
