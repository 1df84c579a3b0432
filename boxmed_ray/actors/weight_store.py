"""Versions of the weights in Ray's object store: put by the learner, fetched once per host, read without a copy.

What lives here: chunks of NumPy arrays, and references to them. What does not: who sends or loads them (weights.py,
weight_engine.py).

Arrays and not torch tensors: those Ray copies through pickle, in sender and receiver. The references are nested in a
list, as Ray would resolve one that is an argument itself, on the driver's behalf. An object lives for as long as
somebody has a reference to it and the learner's process lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from boxmed_ray.actors.weight_file import Bytes, TensorSpec, WeightFileError, agree, as_bytes

Layout = list[list[tuple[str, str, tuple[int, ...]]]]
"""Of every chunk its tensors: name, dtype as safetensors has it, shape."""


def put(specs: Sequence[TensorSpec], buckets: Iterable[Iterable[tuple[str, torch.Tensor]]]) -> tuple[Layout, list[Any]]:
    """Put every bucket into the store as one chunk; what was laid out, and a reference to each.

    Raises:
        WeightFileError: ``buckets`` disagree with ``specs``.
    """
    import ray

    announced = iter(specs)
    layout: Layout = []
    chunks: list[Any] = []
    for bucket in buckets:
        tensors = [(agree(next(announced, None), name, tensor), tensor) for name, tensor in bucket]
        layout.append([(spec.name, spec.dtype_name, spec.shape) for spec, _ in tensors])
        chunks.append(ray.put([as_bytes(tensor.to(spec.dtype)) for spec, tensor in tensors]))
    if (missing := next(announced, None)) is not None:
        raise WeightFileError(f"the weight source announced {missing.name} {missing.shape} and gave nothing more")
    return layout, chunks


def layout_specs(layout: Layout) -> list[TensorSpec]:
    """The tensors of all chunks, in order."""
    return [TensorSpec.named(*entry) for chunk in layout for entry in chunk]


def fetch(layout: Layout, chunks: Sequence[Any]) -> Iterator[tuple[TensorSpec, Bytes]]:
    """Every tensor in the store's own memory, read-only; it stays for as long as its array does."""
    import ray

    for entries, chunk in zip(layout, chunks, strict=True):
        yield from zip([TensorSpec.named(*entry) for entry in entries], ray.get(chunk), strict=True)
