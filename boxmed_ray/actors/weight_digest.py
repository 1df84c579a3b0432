"""A digest of a whole version: what the learner sent and what a worker loaded must have the same.

What lives here: the digest over names, types, shapes and bytes in the order of sending. What does not: when it is
asked for (``resources.check_weights``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch

from boxmed_ray.actors.weight_file import Bytes, TensorSpec, WeightFileError, as_bytes


class WeightDigest:
    """BLAKE2b over the tensors added so far."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, spec: TensorSpec, data: Bytes) -> None:
        """Go on with one tensor."""
        self._hash.update(f"{spec.name} {spec.dtype_name} {spec.shape}".encode())
        self._hash.update(data.data)

    def add_tensor(self, name: str, tensor: torch.Tensor) -> None:
        """Go on with one tensor, on any device."""
        self.add(TensorSpec(name, tensor.dtype, tuple(tensor.shape)), as_bytes(tensor))

    def hex(self) -> str:
        """Of what was added."""
        return self._hash.hexdigest()


def checked(
    tensors: Iterable[tuple[TensorSpec, Bytes]], expected: str | None, what: str
) -> Iterator[tuple[TensorSpec, Bytes]]:
    """Pass ``tensors`` on, and at their end compare their digest with ``expected``; None compares nothing.

    Raises:
        WeightFileError: they are not what was sent.
    """
    digest = WeightDigest()
    for spec, data in tensors:
        if expected is not None:
            digest.add(spec, data)
        yield spec, data
    if expected is not None and digest.hex() != expected:
        raise WeightFileError(f"{what} is damaged: its digest is {digest.hex()}, and {expected} was sent")
