"""Where pushed weights come from: a module's parameters, whole, or its LoRA matrices alone.

What lives here: names, shapes, and gathering bucket by bucket under ZeRO-3. What does not: what becomes of a bucket
(weights.py), merging LoRA (model/merged.py).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from vllm.distributed.weight_transfer import ParamMeta, WeightSource

from boxmed_ray.model.engine_state import full_shape, whole
from boxmed_ray.model.merged import MergedTensor, merged_tensors
from boxmed_ray.model.policy import part_of
from boxmed_ray.model.trainable import is_lora

BUCKET_BYTES = 128 << 20
"""Gathered at once under ZeRO-3, and one object of Ray's store."""

Bucket = Sequence[tuple[str, torch.Tensor]]


class BucketSource(WeightSource):
    """A source that is drawn in buckets: the tensors of one are whole together, until the next is drawn.

    Under ZeRO-3 a rank holds a slice of every parameter, and gathering is a collective: all ranks must
    iterate, in step. One bucket at a time is whole in memory.

    Args:
        bucket_bytes: of a bucket; a parameter that is larger is one of its own.
    """

    def __init__(self, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._bucket_bytes = bucket_bytes

    def metadata(self) -> list[ParamMeta]:
        """Name, dtype on the wire and full shape of every tensor; gathers nothing."""
        return [ParamMeta(one.name, one.base.dtype, full_shape(one.base)) for one in self._tensors()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for bucket in self.buckets():
            yield from bucket

    def buckets(self) -> Iterator[Bucket]:
        """All tensors, without gradient, in the order of ``metadata``."""
        for bucket in self._cut():
            with whole([parameter for tensor in bucket for parameter in tensor.parameters]):
                yield [(tensor.name, tensor.value()) for tensor in bucket]

    @abstractmethod
    def _tensors(self) -> Iterator[MergedTensor]:
        """What there is to send; reads no values."""

    def _cut(self) -> Iterator[list[MergedTensor]]:
        bucket: list[MergedTensor] = []
        size = 0
        for tensor in self._tensors():
            nbytes = math.prod(full_shape(tensor.base)) * tensor.base.dtype.itemsize
            if bucket and size + nbytes > self._bucket_bytes:
                yield bucket
                bucket, size = [], 0
            bucket.append(tensor)
            size += nbytes
        if bucket:
            yield bucket


class ModuleWeights(BucketSource):
    """The parameters of a module, whole, whatever ZeRO stage holds them, and with LoRA merged into them.

    Names are those of the backbone without LoRA, so that rollout workers need not know of it (model/merged.py).

    Args:
        module: a transformers model (under DeepSpeed: ``engine.module``). Tied parameters are sent once.
        bucket_bytes: see ``BucketSource``.
    """

    def __init__(self, module: nn.Module, bucket_bytes: int = BUCKET_BYTES) -> None:
        super().__init__(bucket_bytes)
        self._module = module

    def _tensors(self) -> Iterator[MergedTensor]:
        return merged_tensors(self._module)


class AdapterWeights(BucketSource):
    """The LoRA matrices of a module alone, under the names that a PEFT adapter has on disk.

    Args:
        module: the backbone with LoRA in it.
        bucket_bytes: see ``BucketSource``.

    Raises:
        ValueError: there is none, or some is elsewhere than on the language model, where vLLM applies none.
    """

    def __init__(self, module: nn.Module, bucket_bytes: int = BUCKET_BYTES) -> None:
        super().__init__(bucket_bytes)
        self._matrices = [(name, parameter) for name, parameter in module.named_parameters() if is_lora(name)]
        if not self._matrices:
            raise ValueError("an adapter is to be pushed, and the model has no LoRA; set svr.train.lora, or svr.push")
        elsewhere = sorted({part_of(name) for name, _ in self._matrices} - {"language_model"})
        if elsewhere:
            raise ValueError(
                f"an adapter is to be pushed, and vLLM applies LoRA to the language model only, not to "
                f"{' and '.join(elsewhere)}; set svr.train.lora.parts=[language_model], or svr.push=auto"
            )

    def _tensors(self) -> Iterator[MergedTensor]:
        for name, parameter in self._matrices:
            yield MergedTensor(f"base_model.model.{name.replace('.default.', '.')}", parameter)
