"""One version of the weights as a safetensors file in shared memory.

What lives here: writing a file bucket by bucket, reading its header, the space check, removing what a
killed writer left. What does not: who sends or loads it (weights.py, weight_engine.py).

The format is safetensors, so that whatever loads a checkpoint loads a push. It is written by hand
because ``safetensors.torch.save_file`` wants every tensor at once, which ZeRO-3 exists to avoid.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

PREFIX = "boxmed-weights-"
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_HEADROOM = 16 * 2**20
"""Bytes left free beside a push: /dev/shm is also Ray's object store."""
_STALE_AFTER_S = 60.0


class WeightFileError(RuntimeError):
    """A weight file that cannot be written or read. The message says what, where and what to do."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype on the wire and full shape of one parameter."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize


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
    """A file being written, then shared, then removed by its writer.

    Held under an exclusive lock for as long as the writer lives: what carries no lock was left by a
    killed process, and ``remove_stale`` may take it.
    """

    def __init__(self, path: Path, descriptor: int, nbytes: int) -> None:
        self.path, self.nbytes, self._descriptor = path, nbytes, descriptor

    @classmethod
    def write(
        cls,
        directory: Path,
        version: int,
        specs: Sequence[TensorSpec],
        tensors: Iterable[tuple[str, torch.Tensor]],
    ) -> WeightFile:
        """Stream ``tensors`` into a new file; it has its final name only when it is whole.

        Args:
            directory: usually ``/dev/shm``.
            version: learner updates behind these weights.
            specs: what ``tensors`` yields, in its order.
            tensors: (name, full tensor) on any device; each is needed only until the next is drawn.

        Raises:
            WeightFileError: the disk is full, or ``tensors`` disagrees with ``specs``.
        """
        path = directory / f"{PREFIX}{secrets.token_hex(8)}-v{version}.safetensors"
        beside = path.with_suffix(".part")
        # Owner only: weights trained on patients' images are nobody else's on a shared host.
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise WeightFileError(f"cannot write weights to {directory}: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            nbytes = _write_all(descriptor, _header(version, specs))
            nbytes += _write_tensors(descriptor, specs, tensors)
            os.replace(beside, path)
        except BaseException as error:
            beside.unlink(missing_ok=True)
            os.close(descriptor)
            if isinstance(error, OSError):
                raise WeightFileError(f"writing weights to {directory} failed: {error}") from error
            raise
        return cls(path, descriptor, nbytes)

    def remove(self) -> None:
        """Unlink the file; safe to call twice. Readers that have it open keep their view."""
        self.path.unlink(missing_ok=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


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
            pass  # the writer lives
        finally:
            os.close(descriptor)
    return removed


def read_header(path: Path) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Version and {name: shape} of a weight file.

    Raises:
        WeightFileError: the file is absent (another host?) or not a weight file.
    """
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        version = int(header.pop("__metadata__")["boxmed_weight_version"])
    except FileNotFoundError as error:
        raise WeightFileError(
            f"weight file {path} does not exist here ({os.uname().nodename}); the shared-memory push needs learner and "
            "rollout worker on one host"
        ) from error
    except (OSError, struct.error, ValueError, KeyError) as error:
        raise WeightFileError(f"{path} is not a weight file: {error!r}") from error
    return version, {name: tuple(entry["shape"]) for name, entry in header.items()}


def _header(version: int, specs: Sequence[TensorSpec]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt", "boxmed_weight_version": str(version)}}
    offset = 0
    for spec in specs:
        if spec.dtype not in _DTYPES:
            raise WeightFileError(f"{spec.name}: dtype {spec.dtype} is not sent; use float32, bfloat16 or float16")
        end = offset + spec.nbytes
        header[spec.name] = {"dtype": _DTYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return struct.pack("<Q", len(data)) + data


def _write_tensors(descriptor: int, specs: Sequence[TensorSpec], tensors: Iterable[tuple[str, torch.Tensor]]) -> int:
    written = 0
    iterator = iter(tensors)
    for spec in specs:
        name, tensor = next(iterator, ("nothing", torch.empty(0)))
        if name != spec.name or tuple(tensor.shape) != spec.shape:
            raise WeightFileError(
                f"the weight source announced {spec.name} {spec.shape} and gave {name} {tuple(tensor.shape)}"
            )
        data = tensor.detach().to(device="cpu", dtype=spec.dtype).contiguous().reshape(-1)
        written += _write_all(descriptor, data.view(torch.uint8).numpy() if data.numel() else b"")
    extra = next(iterator, None)
    if extra is not None:
        raise WeightFileError(f"the weight source gave {extra[0]}, which it had not announced")
    return written


def _write_all(descriptor: int, data: object) -> int:
    view = memoryview(data)  # type: ignore[arg-type]
    total = view.nbytes
    while view.nbytes:
        view = view[os.write(descriptor, view) :]
    return total
