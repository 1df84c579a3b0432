"""Checkpoints of a stage: written beside and renamed into place, checked by digest when read.

What lives here: the folder of a stage's checkpoints, its manifests, which one a resume uses, random
number generators as tensors. What does not: what a stage puts into one (model/engine_state.py).

    checkpoints/step-00000120/{manifest.json, state.json, *.safetensors}

A folder named ``step-…`` is complete: it gets that name only after everything in it is on disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

log = logging.getLogger(__name__)

FORMAT: Final = 1
_MANIFEST, _STATE, _PREFIX = "manifest.json", "state.json", "step-"


class CheckpointError(RuntimeError):
    """No checkpoint of a folder can be used, or one is damaged. The message names it and the reason."""


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
    """The checkpoints of one stage.

    Args:
        folder: made when the first one is written.
        keep: how many of the newest to keep; 2 survive damage to the last.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep = {keep}: at least one checkpoint must be kept")
        self.folder, self.keep = folder, keep

    def save(self, step: int, state: dict[str, Any], write: Callable[[Path], None]) -> Checkpoint:
        """Write a checkpoint and drop all but the newest ``keep``.

        Args:
            step: updates done; a checkpoint of the same step is replaced.
            state: small, of JSON's types.
            write: puts its files into the folder it is given.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"{_PREFIX}{step:08d}"
        temporary = self.folder / f".{final.name}.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            write(temporary)
            (temporary / _STATE).write_text(json.dumps(state, indent=1))
            manifest = {"format": FORMAT, "step": step, "files": _digests(temporary)}
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))
            _sync(temporary)
            if final.exists():
                shutil.rmtree(final)
            os.replace(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(self.folder)
        for old in self._folders()[self.keep :]:
            shutil.rmtree(old)
        return Checkpoint(final, step, state)

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

    def newest(self) -> Path | None:
        """Folder of the newest checkpoint, for messages: it is not checked."""
        return next(iter(self._folders()), None)

    def clear(self) -> None:
        """Remove them all: the stage starts over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted((entry for entry in self.folder.iterdir() if entry.name.startswith(_PREFIX)), reverse=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: a file is missing, is of another size or digest, or the manifest cannot be read.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
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


def rng_state() -> dict[str, torch.Tensor]:
    """The random generators of this process (Python, NumPy, torch on CPU and GPU) as tensors."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), int(position), int(has_gauss)], dtype=torch.int64),
        "numpy_gauss": torch.tensor([float(cached)], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: dict[str, torch.Tensor]) -> None:
    """Undo ``rng_state``."""
    words, gauss = state["python"].tolist(), state["python_gauss"].tolist()
    random.setstate((words[0], tuple(words[1:]), gauss[0] if gauss else None))
    *keys, position, has_gauss = state["numpy"].tolist()
    cached = float(state["numpy_gauss"][0])
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


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
