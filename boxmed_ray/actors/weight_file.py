"""Versions of the weights in files in shared memory: written by the learner, mapped by workers of its host.

What lives here: writing a file bucket by bucket and writing it over for a later version, mapping one, the space check,
removing what a killed writer left. What does not: which file a version goes to, who loads it (weights.py,
weight_engine.py).

A fresh page of shared memory costs several times what copying to it costs: it is found, cleared and mapped, in the
writer and in every reader. So files are kept and written over, and both sides keep their mappings. Locks of the
kernel make that safe, and end with their process: a reader has a shared lock, and what is locked is not written over.

The format is safetensors, so that whatever loads a checkpoint loads a push. It is written by hand
because ``safetensors.torch.save_file`` wants every tensor at once, which ZeRO-3 exists to avoid.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import secrets
import struct
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

PREFIX = "boxmed-weights-"
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_NAMED = {name: dtype for dtype, name in _DTYPES.items()}
_HEADROOM = 16 * 2**20
"""Bytes left free beside a push: /dev/shm is also Ray's object store."""
_STALE_AFTER_S = 60.0
_VERSION_DIGITS = 12
"""A version is written with so many, so that every version's header has the same length."""

Bytes = NDArray[np.uint8]


class WeightFileError(RuntimeError):
    """Weights that cannot be written or read. The message says what, where and what to do."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype on the wire and full shape of one parameter."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def dtype_name(self) -> str:
        """As safetensors has it.

        Raises:
            WeightFileError: it is not one of those that are sent.
        """
        if self.dtype not in _DTYPES:
            raise WeightFileError(f"{self.name}: dtype {self.dtype} is not sent; use float32, bfloat16 or float16")
        return _DTYPES[self.dtype]

    @classmethod
    def named(cls, name: str, dtype_name: str, shape: Sequence[int]) -> TensorSpec:
        """From what ``dtype_name`` gave."""
        return cls(name, _NAMED[dtype_name], tuple(shape))

    def view(self, data: Bytes) -> torch.Tensor:
        """The tensor in ``data``'s own memory, which may be read-only: nobody may write to it."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(data).view(self.dtype).view(self.shape)


def as_bytes(tensor: torch.Tensor) -> Bytes:
    """A tensor's data, on the CPU without a copy."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def choose_directory(nbytes: int, directory: Path, fallback: Path | None = None) -> Path:
    """The first of the two directories with room for ``nbytes``.

    Raises:
        WeightFileError: neither has; the message gives the numbers and the remedy.
    """
    seen = []
    for candidate in (directory, fallback):
        if candidate is None:
            continue
        if not candidate.is_dir():
            seen.append(f"{candidate} is not a directory")
            continue
        stat = os.statvfs(candidate)
        free = stat.f_bavail * stat.f_frsize
        if free >= nbytes + _HEADROOM:
            return candidate
        seen.append(f"{candidate} has {free / 2**20:.0f} MiB free")
    raise WeightFileError(
        f"a weight push needs {(nbytes + _HEADROOM) / 2**20:.0f} MiB of shared memory, but {' and '.join(seen)}; "
        "enlarge /dev/shm (docker run --shm-size, a memory-backed emptyDir on Kubernetes) or name a fallback directory"
    )


class WeightFile:
    """A file for versions of one model, each written over the one before.

    Its writer holds a lock for as long as it lives, exclusive while it writes: what carries no lock was left by a
    killed process, and ``remove_stale`` may take it.

    Args:
        directory: usually ``/dev/shm``.
        specs: the tensors of a version, in their order.

    Raises:
        WeightFileError: the directory is full or cannot be written.
    """

    def __init__(self, directory: Path, specs: Sequence[TensorSpec]) -> None:
        self._specs, self._data = list(specs), len(_header(0, specs))
        self.nbytes = self._data + sum(spec.nbytes for spec in specs)
        self._name = f"{PREFIX}{secrets.token_hex(8)}"
        self.path = directory / f"{self._name}.part"
        # Owner only: weights trained on patients' images are nobody else's on a shared host.
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise WeightFileError(f"cannot write weights to {directory}: {error}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            # A page that cannot be had when it is written to would end the process.
            os.posix_fallocate(self._descriptor, 0, self.nbytes)
            self._memory: Bytes | None = np.frombuffer(mmap.mmap(self._descriptor, self.nbytes), np.uint8)
        except OSError as error:
            self.path.unlink()
            os.close(self._descriptor)
            raise WeightFileError(f"writing weights to {directory} failed: {error}") from error

    def holds(self, specs: Sequence[TensorSpec]) -> bool:
        """Whether it was made for these tensors."""
        return self._specs == list(specs)

    def claim(self) -> bool:
        """Take the file back to write it over; False where somebody reads it, whose it is then until it is removed."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._rename(f"{self._name}.part")
        return True

    def write(self, version: int, buckets: Iterable[Iterable[tuple[str, torch.Tensor]]]) -> None:
        """Put a version into a new or claimed file; it has its final name only when it is whole.

        Args:
            version: learner updates behind these weights.
            buckets: (name, full tensor) on any device; those of one bucket are needed until the next is drawn.

        Raises:
            WeightFileError: ``buckets`` disagree with the specs that the file was made for.
        """
        try:
            self._fill(version, buckets)
        except BaseException:
            self.remove()
            raise
        self._rename(f"{self._name}-v{version}.safetensors")
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def remove(self) -> None:
        """Unlink the file; safe to call twice. Readers keep their view."""
        self.path.unlink(missing_ok=True)
        if self._memory is not None:
            self._memory = None
            os.close(self._descriptor)

    def _fill(self, version: int, buckets: Iterable[Iterable[tuple[str, torch.Tensor]]]) -> None:
        assert self._memory is not None
        self._memory[: self._data] = np.frombuffer(_header(version, self._specs), np.uint8)
        begin, specs = self._data, iter(self._specs)
        for bucket in buckets:
            for name, tensor in bucket:
                spec = agree(next(specs, None), name, tensor)
                # From any device and in any dtype, without a copy between.
                spec.view(self._memory[begin : begin + spec.nbytes]).copy_(tensor)
                begin += spec.nbytes
        if (missing := next(specs, None)) is not None:
            raise WeightFileError(f"the weight source announced {missing.name} {missing.shape} and gave nothing more")

    def _rename(self, name: str) -> None:
        self.path = self.path.replace(self.path.with_name(name))


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


def remove_stale(directory: Path) -> list[Path]:
    """Remove weight files in ``directory`` whose writer is dead; returns what was removed."""
    removed = []
    for path in directory.glob(f"{PREFIX}*"):
        try:
            if time.time() - path.stat().st_mtime < _STALE_AFTER_S:
                continue  # may be between creation and lock
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            continue  # its owner was quicker, or it is someone else's
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed.append(path)
        except BlockingIOError:
            pass  # the writer lives, or somebody reads
        finally:
            os.close(descriptor)
    return removed


def _unlock(descriptor: int) -> None:
    # Closing alone would not do: a mapping has a descriptor of its own, which shares the lock.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _header(version: int, specs: Sequence[TensorSpec]) -> bytes:
    header: dict[str, object] = {
        "__metadata__": {"format": "pt", "boxmed_weight_version": f"{version:0{_VERSION_DIGITS}}"}
    }
    offset = 0
    for spec in specs:
        end = offset + spec.nbytes
        header[spec.name] = {"dtype": spec.dtype_name, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return struct.pack("<Q", len(data)) + data


def agree(spec: TensorSpec | None, name: str, tensor: torch.Tensor) -> TensorSpec:
    """The spec that a source announced, where what it gives is that.

    Raises:
        WeightFileError: it is not, or nothing more was announced.
    """
    if spec is None or (spec.name, spec.shape) != (name, tuple(tensor.shape)):
        announced = "nothing more" if spec is None else f"{spec.name} {spec.shape}"
        raise WeightFileError(f"the weight source announced {announced} and gave {name} {tuple(tensor.shape)}")
    return spec
