"""A trainer engine that drives workers of this process itself, as vLLM's interface has it, without a driver between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boxmed_ray.actors.weight_fleet import PushReport, WorkerClient, WorkerFleet


class Pusher:
    """Every ``send_weights`` is a whole push to ``clients``."""

    def __init__(self, source: Any, clients: Sequence[WorkerClient], info: Any, timeout_s: float = 60) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        import boxmed_ray.actors.weights  # noqa: F401 - registers the engines

        self.fleet = WorkerFleet(clients, timeout_s)
        self.fleet.begin(0)
        self.engine: Any = WeightTransferTrainerFactory.trainer_init(info, client=self.fleet, source=source)
        self.fleet.end()

    def send_weights(self, version: int, clients: Sequence[WorkerClient] | None = None) -> PushReport | None:
        """Push; on rank 0 the report."""
        self.fleet.begin(version, clients)
        sent = self.engine.send_weights(version)
        return None if sent is None else self.fleet.end()


def through_shm(
    source: Any, clients: Sequence[WorkerClient], directory: Path | None = None, *, rank: int = 0, **options: Any
) -> Pusher:
    """Through a file in shared memory, or in ``directory``."""
    from boxmed_ray.actors.weights import SHARED_MEMORY, ShmInitInfo

    checked = options.pop("checked", False)
    info = ShmInitInfo(rank=rank, directory=directory or SHARED_MEMORY, checked=checked)
    return Pusher(source, clients, info, **options)
