"""Pushes on GPUs, through vLLM's own engines: NCCL between GPUs, CUDA IPC on one.

What lives here: joining learner and workers in such an engine, and sending. What does not: the engines (vLLM's), which
of the two fits (weight_backend.py), ways in which workers read on their own (weights.py).

Sending is a collective: learner ranks gather bucket by bucket, rank 0 sends, and every worker receives at that time.
A worker that fails before the first byte ends the push; one that fails later leaves the others waiting inside NCCL,
and it is the time-out of the call on the learner that ends it, with the learner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm.distributed.weight_transfer import TrainerWeightTransferEngine, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import TrainerInitInfo
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from boxmed_ray.actors.weight_backend import Backend
from boxmed_ray.actors.weight_fleet import Phase, PushError, PushReport, WorkerClient, WorkerFleet
from boxmed_ray.actors.weight_source import BucketSource

_BEFORE_GATHERING = (Phase.CONNECT, Phase.PAUSE, Phase.START)


class Transfer:
    """vLLM's engine of one kind on a learner rank, joined anew whenever the workers are others.

    Args:
        backend: "nccl" or "ipc".
        source: of the weights, on every rank.
        rank: of the learner; rank 0 sends and drives the workers.
        timeout_s: of each phase.
        address: gives host and a free port of rank 0, where NCCL's processes meet.
    """

    def __init__(
        self,
        backend: Backend,
        source: BucketSource,
        rank: int,
        timeout_s: float,
        address: Callable[[], tuple[str, int]],
    ) -> None:
        self._backend, self._source, self._rank, self._address = backend, source, rank, address
        self._fleet = WorkerFleet([], timeout_s, engine=backend, together=True)
        self._joined: list[str] = []
        self._engine: TrainerWeightTransferEngine[TrainerInitInfo] | None = None

    def send(self, version: int, workers: Sequence[tuple[str, WorkerClient]]) -> PushReport | None:
        """Send the source's present weights; all ranks call it.

        Args:
            version: learner updates behind them.
            workers: key that no two workers share, and client, of each; only rank 0 needs them.

        Returns:
            On rank 0 the report, elsewhere None.

        Raises:
            PushError: a worker failed; none of them has the version.
        """
        self._fleet.begin(version, [client for _, client in workers])
        try:
            self._join([key for key, _ in workers]).send_weights()
        except PushError as error:
            if all(failure.phase in _BEFORE_GATHERING for failure in error.report.failures):
                for _ in self._source:  # the other ranks are gathering
                    pass
            self.shutdown()
            raise
        return self._fleet.end() if self._rank == 0 else None

    def shutdown(self) -> None:
        """Leave vLLM's engine."""
        if self._engine is not None:
            self._engine.shutdown()
        self._engine, self._joined = None, []

    def _join(self, keys: list[str]) -> TrainerWeightTransferEngine[TrainerInitInfo]:
        if self._engine is None or keys != self._joined:
            self.shutdown()
            self._engine = WeightTransferTrainerFactory.trainer_init(
                self._init_info(len(keys)), client=self._fleet, source=self._source
            )
            self._joined = keys
        return self._engine

    def _init_info(self, workers: int) -> TrainerInitInfo:
        if self._backend == "ipc":
            # Packed: handles of a bounded buffer; without, the whole model is held until all have read it.
            return IPCTrainerInitInfo(rank=self._rank, packed=True)
        host, port = self._address()
        return NCCLTrainerInitInfo(rank=self._rank, master_address=host, master_port=port, world_size=1 + workers)
