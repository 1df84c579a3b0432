"""What a learner rank has for sending its weights: one engine of vLLM's trainer factory for each way it was asked for.

What lives here: making and keeping them. What does not: the engines (weights.py, weight_transfer.py), when to send
(weight_push.py).

Importing this module imports vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

from boxmed_ray.actors.weight_backend import COLLECTIVE, Backend
from boxmed_ray.actors.weight_fleet import PushError, PushReport, RayClient
from boxmed_ray.actors.weight_push import Publication
from boxmed_ray.actors.weight_source import AdapterWeights, ModuleWeights
from boxmed_ray.actors.weight_transfer import Transfer
from boxmed_ray.actors.weights import LoraInitInfo, Outbox, PublishingEngine, ShmInitInfo, StoreInitInfo
from boxmed_ray.model.policy import adapter_config

if TYPE_CHECKING:
    from peft import PeftModel


class WeightSender:
    """One rank's side of every push; all ranks make the same calls, rank 0 sends.

    Args:
        model: whose weights are sent.
        adapted: PEFT's handle on the LoRA in it, if there is any.
        rank: of the learner.
        timeout_s: of each phase of a transfer.
        checked: whether publications carry a digest.
        address: gives host and a free port of this process.
    """

    def __init__(
        self,
        model: nn.Module,
        adapted: PeftModel | None,
        rank: int,
        *,
        timeout_s: float,
        checked: bool,
        address: Callable[[], tuple[str, int]],
    ) -> None:
        self._model, self._adapted, self._rank = model, adapted, rank
        self._timeout_s, self._checked, self._address = timeout_s, checked, address
        self._publishers: dict[Backend, tuple[PublishingEngine[Any], Outbox]] = {}
        self._transfers: dict[Backend, Transfer] = {}

    def publish(self, backend: Backend, version: int, keep: Sequence[str]) -> Publication | None:
        """Put the present weights where workers read them; on rank 0 what that is, elsewhere None.

        Args:
            backend: the way. Of a collective one there is nothing to publish: it is the transfer that sends.
            version: learner updates behind the weights.
            keep: paths of files that somebody may still read.
        """
        if backend in COLLECTIVE:
            return Publication(version, backend, {}, nbytes=0, gather_s=0.0, transport_s=0.0)
        if backend not in self._publishers:
            self._publishers[backend] = self._publisher(backend)
        engine, outbox = self._publishers[backend]
        sent = engine.send_weights(version, keep)
        if sent is None:
            return None
        return Publication(version, backend, outbox.update, sent.nbytes, sent.gather_s, sent.transport_s)

    def transfer(self, backend: Backend, version: int, workers: Sequence[tuple[str, Any]]) -> PushReport | None:
        """Send the present weights by a collective with ``workers``, name and actor handle of each.

        Returns:
            On rank 0 the report, failures in it; elsewhere None.
        """
        if backend not in self._transfers:
            source = ModuleWeights(self._model)
            self._transfers[backend] = Transfer(backend, source, self._rank, self._timeout_s, self._address)
        clients = [(handle._actor_id.hex(), RayClient(handle, name)) for name, handle in workers]
        try:
            report = self._transfers[backend].send(version, clients if self._rank == 0 else [])
        except PushError as error:
            report = error.report
        if report is not None:
            report.backend = backend
        return report

    def shutdown(self) -> None:
        """Remove what is kept in shared memory, and leave what was joined for transfers."""
        for engine, _ in self._publishers.values():
            engine.shutdown()
        for transfer in self._transfers.values():
            transfer.shutdown()

    def _publisher(self, backend: Backend) -> tuple[PublishingEngine[Any], Outbox]:
        source = AdapterWeights(self._model) if backend == "lora" else ModuleWeights(self._model)
        common: dict[str, Any] = {"rank": self._rank, "checked": self._checked}
        match backend:
            case "lora":
                assert self._adapted is not None  # or AdapterWeights would have found none
                info: Any = LoraInitInfo(config=adapter_config(self._adapted), **common)
            case "shm":
                info = ShmInitInfo(**common)
            case _:
                info = StoreInitInfo(**common)
        outbox = Outbox()
        engine = WeightTransferTrainerFactory.trainer_init(info, client=outbox, source=source)
        assert isinstance(engine, PublishingEngine)
        return engine, outbox
