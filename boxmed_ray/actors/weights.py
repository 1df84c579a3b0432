"""The learner's side of a weight push: vLLM's trainer-side transfer interface over shared memory.

What lives here: the source of the weights (ZeRO-aware), the trainer engine registered with vLLM's
``WeightTransferTrainerFactory`` under ``shm``, and ``connect``, which makes one. What does not: the file
(weight_file.py), phases and timeouts (weight_fleet.py), the worker's side (weight_engine.py).

Importing this module imports vLLM (10 s, 300 MB): learner ranks do it inside their actor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from vllm.distributed.weight_transfer import (
    ParamMeta,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.base import TrainerInitInfo

from boxmed_ray.actors.weight_file import TensorSpec, WeightFile, choose_directory, remove_stale
from boxmed_ray.actors.weight_fleet import Phase, PushReport, WorkerClient, WorkerFleet
from boxmed_ray.model.engine_state import full_shape, whole
from boxmed_ray.model.merged import MergedTensor, merged_tensors

BACKEND = "shm"
SHARED_MEMORY = Path("/dev/shm")


class ModuleWeights(WeightSource):
    """The parameters of a module, whole, whatever ZeRO stage holds them, and with LoRA merged into them.

    Names are those of the backbone without LoRA, so that rollout workers need not know of it (model/merged.py).
    Under ZeRO-3 a rank holds a slice of every parameter, and gathering is a collective: all ranks must
    iterate, in step. One bucket at a time is whole in memory.

    Args:
        module: a transformers model (under DeepSpeed: ``engine.module``). Tied parameters are sent once.
        dtype: on the wire; None sends each parameter as it is.
        bucket_bytes: parameters gathered at once under ZeRO-3.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype | None = None, bucket_bytes: int = 256 << 20) -> None:
        self._module, self._dtype, self._bucket_bytes = module, dtype, bucket_bytes

    def metadata(self) -> list[ParamMeta]:
        """Name, dtype on the wire and full shape of every parameter; gathers nothing."""
        return [
            ParamMeta(tensor.name, self._dtype or tensor.base.dtype, full_shape(tensor.base))
            for tensor in merged_tensors(self._module)
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for bucket in self._buckets():
            with whole([parameter for tensor in bucket for parameter in tensor.parameters]):
                for tensor in bucket:
                    yield tensor.name, tensor.value()

    def _buckets(self) -> Iterator[list[MergedTensor]]:
        bucket: list[MergedTensor] = []
        size = 0
        for tensor in merged_tensors(self._module):
            nbytes = TensorSpec(tensor.name, tensor.base.dtype, full_shape(tensor.base)).nbytes
            if bucket and size + nbytes > self._bucket_bytes:
                yield bucket
                bucket, size = [], 0
            bucket.append(tensor)
            size += nbytes
        if bucket:
            yield bucket


@dataclass
class ShmTrainerInitInfo(TrainerInitInfo):
    """How the learner pushes.

    Attributes:
        rank: of the learner; rank 0 writes and drives, the others take part in gathering.
        directory: shared memory of the host that learner and workers share.
        fallback: used when ``directory`` has no room; a local disk will do, slower.
        keep_latest: keep the file until the next push, so that a worker that joins between two pushes
            can be given it (``deliver_latest``). Costs one copy of the weights in shared memory.
    """

    backend: ClassVar[str] = BACKEND

    directory: Path = SHARED_MEMORY
    fallback: Path | None = None
    keep_latest: bool = False


class ShmTrainerEngine(TrainerWeightTransferEngine[ShmTrainerInitInfo]):
    """Writes one file per version and has every worker load it."""

    init_info_cls = ShmTrainerInitInfo

    def __init__(self, info: ShmTrainerInitInfo, fleet: WorkerFleet, source: WeightSource) -> None:
        super().__init__(client=fleet, source=source, is_sender=info.is_sender)
        self._info, self._fleet, self._source = info, fleet, source
        self._connected: set[WorkerClient] = set()
        self._latest: tuple[int, WeightFile] | None = None
        self.version = 0

    @classmethod
    def trainer_init(
        cls, init_info: ShmTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        """Build the engine and, on rank 0, shake hands with every worker.

        Raises:
            PushError: a worker does not answer, or is not one that takes these weights.
        """
        if source is None:
            raise ValueError("the shm backend sends whole versions and needs a WeightSource")
        if not isinstance(client, WorkerFleet):
            raise TypeError(f"the shm backend needs a WorkerFleet as its client, not {type(client).__name__}")
        engine = cls(init_info, client, source)
        if engine.is_sender:
            remove_stale(init_info.directory)
            client.begin(version=0)
            engine._connect(client.clients)
            client.end()
        return engine

    def send_weights(
        self, version: int | None = None, clients: Sequence[WorkerClient] | None = None
    ) -> PushReport | None:
        """Push the source's present weights. Call it on every rank.

        Args:
            version: learner updates behind these weights; by default one more than the last.
            clients: workers to push to; by default all of the fleet.

        Returns:
            On rank 0 the report, elsewhere None.

        Raises:
            WeightFileError: no room, or the source contradicts itself.
            PushError: a worker failed or was late; the others have the version.
        """
        self.version = self.version + 1 if version is None else version
        started = time.monotonic()
        if not self.is_sender:
            _take_part(self._source)
            return None
        self._drop_latest()  # before the next is written: one copy in shared memory, not two
        file = self._publish()
        self._latest = (self.version, file)
        gather_s = time.monotonic() - started
        try:
            return self._deliver(clients, gather_s)
        finally:
            if not self._info.keep_latest:
                self._drop_latest()

    def deliver_latest(self, clients: Sequence[WorkerClient]) -> PushReport:
        """Give the last pushed version to workers that have joined since. Rank 0 only; no collective.

        Raises:
            RuntimeError: nothing was pushed yet, or ``keep_latest`` is off.
            PushError: a worker failed.
        """
        if self._latest is None:
            raise RuntimeError("no version is kept: push once, with keep_latest on, before workers may join")
        return self._deliver(clients, gather_s=0.0)

    def shutdown(self) -> None:
        """Remove what is kept in shared memory."""
        self._drop_latest()

    def _publish(self) -> WeightFile:
        specs = [TensorSpec(meta.name, meta.dtype, tuple(meta.shape)) for meta in self._source.metadata()]
        tensors = iter(self._source)
        try:
            directory = choose_directory(sum(spec.nbytes for spec in specs), self._info.directory, self._info.fallback)
            return WeightFile.write(directory, self.version, specs, tensors)
        except BaseException:
            # The other ranks are gathering: leaving the collective here would hang them.
            _take_part(tensors)
            raise

    def _deliver(self, clients: Sequence[WorkerClient] | None, gather_s: float) -> PushReport:
        assert self._latest is not None
        version, file = self._latest
        report = self._fleet.begin(version, clients)
        report.nbytes, report.gather_s = file.nbytes, gather_s
        self._connect(self._fleet.clients if clients is None else clients)
        self._fleet.run(
            (Phase.PAUSE, {}),
            (Phase.START, {}),
            (Phase.UPDATE, {"path": str(file.path), "version": version}),
            (Phase.FINISH, {"version": version}),
            (Phase.RESUME, {}),
        )
        return self._fleet.end()

    def _connect(self, clients: Sequence[WorkerClient]) -> None:
        if any(client not in self._connected for client in clients):
            self._fleet.init_weight_transfer_engine({"writer": f"rank {self._info.rank}"})
            self._connected.update(self._fleet.active)

    def _drop_latest(self) -> None:
        if self._latest is not None:
            self._latest[1].remove()
            self._latest = None


def _take_part(weights: Any) -> None:
    """Run through the source for its collectives alone."""
    for _ in weights:
        pass


def connect(
    source: WeightSource,
    clients: Sequence[WorkerClient],
    *,
    timeout_s: float,
    rank: int = 0,
    directory: Path = SHARED_MEMORY,
    fallback: Path | None = None,
    keep_latest: bool = False,
) -> ShmTrainerEngine:
    """Make a trainer engine through vLLM's factory and shake hands with the workers.

    Args:
        source: of the weights, on every rank.
        clients: the workers; only rank 0 talks to them.
        timeout_s: of each phase of a push.
        rank: of the learner.
        directory: shared memory.
        fallback: used when it is full.
        keep_latest: see ``ShmTrainerInitInfo``.

    Raises:
        PushError: a worker does not answer.
    """
    info = ShmTrainerInitInfo(rank=rank, directory=directory, fallback=fallback, keep_latest=keep_latest)
    engine = WeightTransferTrainerFactory.trainer_init(info, client=WorkerFleet(clients, timeout_s), source=source)
    assert isinstance(engine, ShmTrainerEngine)
    return engine


WeightTransferTrainerFactory.register_engine(BACKEND, ShmTrainerEngine)
