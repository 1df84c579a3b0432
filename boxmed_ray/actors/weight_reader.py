"""The worker's side of a file in shared memory: mapped once, locked while a version in it is read.

What lives here: those. What does not: the file (weight_file.py), loading what is in it (weight_engine.py).
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from boxmed_ray.actors.weight_file import Bytes, TensorSpec, WeightFileError


class WeightFiles:
    """The files that this process has mapped; a mapping is kept for the next version in the same file.

    Args:
        kept: mappings, the latest ones; a writer has two files.
    """

    def __init__(self, kept: int = 2) -> None:
        self._kept = kept
        self._mapped: dict[tuple[int, int], Bytes] = {}

    def open(self, path: Path) -> OpenWeights:
        """Open and lock the version at ``path``.

        Raises:
            WeightFileError: the file is absent (another host?), written over at this moment, or not a weight file.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise WeightFileError(
                f"weight file {path} cannot be opened here ({os.uname().nodename}): {error.strerror}; the push through "
                "shared memory needs learner and rollout worker on one host (svr.push=object_store does not)"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return OpenWeights(path, descriptor, self._map(descriptor))
        except BaseException as error:
            _unlock(descriptor)
            if isinstance(error, BlockingIOError):
                raise WeightFileError(f"{path} is being written over with a later version") from error
            if isinstance(error, OSError | struct.error | ValueError | KeyError):
                raise WeightFileError(f"{path} is not a weight file: {error!r}") from error
            raise

    def _map(self, descriptor: int) -> Bytes:
        status = os.fstat(descriptor)
        key = (status.st_dev, status.st_ino)
        mapping = self._mapped.pop(key, None)
        if mapping is None:
            view = mmap.mmap(descriptor, status.st_size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
            mapping = np.frombuffer(view, np.uint8)
        self._mapped[key] = mapping
        while len(self._mapped) > self._kept:
            del self._mapped[next(iter(self._mapped))]
        return mapping


class OpenWeights:
    """A version under a shared lock. Its tensors are the file's own memory, and valid until ``close``."""

    def __init__(self, path: Path, descriptor: int, memory: Bytes) -> None:
        (length,) = struct.unpack("<Q", memory[:8].tobytes())
        header: dict[str, Any] = json.loads(memory[8 : 8 + length].tobytes())
        self.path, self._descriptor = path, descriptor
        self.version = int(header.pop("__metadata__")["boxmed_weight_version"])
        self.specs: list[TensorSpec] = []
        self._parts: list[Bytes] = []
        for name, entry in header.items():
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            self.specs.append(TensorSpec.named(name, entry["dtype"], entry["shape"]))
            self._parts.append(memory[first:last])

    def __iter__(self) -> Iterator[tuple[TensorSpec, Bytes]]:
        return zip(self.specs, self._parts, strict=True)

    def close(self) -> None:
        """Give the lock up; safe to call twice."""
        if self._descriptor >= 0:
            _unlock(self._descriptor)
        self._descriptor, self._parts = -1, []


def _unlock(descriptor: int) -> None:
    # Closing alone would not do: a mapping has a descriptor of its own, which shares the lock.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
