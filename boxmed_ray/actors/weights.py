"""The learner's side of a weight push: vLLM's trainer-side transfer interface, one engine for each way.

What lives here: the engines registered with vLLM's ``WeightTransferTrainerFactory`` that publish a version and let
others read it: ``shm``, ``object_store`` and ``lora``. What does not: where the weights come from (weight_source.py),
files and objects (weight_file.py, weight_store.py), vLLM's own engines on GPUs (weight_transfer.py), phases and
timeouts (weight_fleet.py), the worker's side (weight_engine.py).

Importing this module imports vLLM (10 s, 300 MB): learner ranks do it inside their actor.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from vllm.distributed.weight_transfer import (
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.base import TrainerInitInfo

from boxmed_ray.actors.weight_backend import WORKER_ENGINE
from boxmed_ray.actors.weight_digest import WeightDigest
from boxmed_ray.actors.weight_file import TensorSpec, WeightFile, choose_directory, remove_stale
from boxmed_ray.actors.weight_source import Bucket, BucketSource
from boxmed_ray.actors.weight_store import put

SHARED_MEMORY = Path("/dev/shm")


@dataclass
class PublishingInitInfo(TrainerInitInfo):
    """How a learner publishes.

    Attributes:
        rank: of the learner; rank 0 publishes, the others take part in gathering.
        checked: whether to send a digest that every worker compares.
    """

    backend: ClassVar[str] = "publishing"

    checked: bool = False


@dataclass
class ShmInitInfo(PublishingInitInfo):
    """Through a file in shared memory.

    Attributes:
        directory: shared memory of the host that learner and workers share.
        fallback: used when ``directory`` has no room; a local disk will do, slower.
    """

    backend: ClassVar[str] = "shm"

    directory: Path = SHARED_MEMORY
    fallback: Path | None = None


@dataclass
class StoreInitInfo(PublishingInitInfo):
    """Through Ray's object store."""

    backend: ClassVar[str] = "object_store"


@dataclass
class LoraInitInfo(PublishingInitInfo):
    """The adapter alone, through Ray's object store.

    Attributes:
        config: of the adapter, as PEFT writes it beside its tensors.
    """

    backend: ClassVar[str] = "lora"

    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sent:
    """What sending took: bytes, seconds until the parameters were whole, seconds of putting them in place."""

    nbytes: int
    gather_s: float
    transport_s: float


class Outbox:
    """A VLLMWeightSyncClient that calls nobody: what is to be sent waits here for whoever delivers it."""

    def __init__(self) -> None:
        self.update: Mapping[str, Any] = {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Workers are told when a version is delivered to them."""

    def start_weight_update(self) -> None:
        """Likewise."""

    def update_weights(self, update_info: Any) -> None:
        """Keep it."""
        self.update = update_info

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Likewise."""


class Gathering:
    """One pass over a source: its buckets, with the seconds that drawing them took, and their digest if asked for."""

    def __init__(self, source: BucketSource, checked: bool) -> None:
        self.specs = [TensorSpec(meta.name, meta.dtype, tuple(meta.shape)) for meta in source.metadata()]
        self.seconds = 0.0
        self._buckets = source.buckets()
        self._digest = WeightDigest() if checked else None

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(spec.nbytes for spec in self.specs)

    @property
    def digest(self) -> str | None:
        """Of what was drawn."""
        return None if self._digest is None else self._digest.hex()

    def __iter__(self) -> Iterator[Bucket]:
        while True:
            began = time.perf_counter()
            bucket = next(self._buckets, None)
            if self._digest is not None:
                for name, tensor in bucket or ():
                    self._digest.add_tensor(name, tensor)
            self.seconds += time.perf_counter() - began
            if bucket is None:
                return
            yield bucket


Info = TypeVar("Info", bound=PublishingInitInfo)


class PublishingEngine(TrainerWeightTransferEngine[Info], Generic[Info]):
    """Puts a version where workers read it on their own, and hands its client where that is."""

    source: BucketSource

    def __init__(self, info: Info, client: VLLMWeightSyncClient, source: BucketSource) -> None:
        super().__init__(client=client, source=source, is_sender=info.is_sender)
        self.info = info

    @classmethod
    def trainer_init(cls, init_info: Info, *, client: VLLMWeightSyncClient, source: WeightSource | None = None) -> Self:
        """Build the engine and, on rank 0, have the client shake hands.

        Raises:
            ValueError: the source is not one that is drawn in buckets.
        """
        if not isinstance(source, BucketSource):
            raise ValueError(f"the {init_info.backend} push needs a BucketSource, not {type(source).__name__}")
        engine = cls(init_info, client, source)
        if engine.is_sender:
            client.init_weight_transfer_engine({"backend": WORKER_ENGINE[init_info.backend]})  # type: ignore[index]
        return engine

    def send_weights(self, version: int = 0, keep: Sequence[str] = ()) -> Sent | None:
        """Publish the source's present weights. Call it on every rank.

        Args:
            version: learner updates behind them.
            keep: paths of files that somebody may still read.

        Returns:
            On rank 0 what it took, elsewhere None.

        Raises:
            WeightFileError: no room, or the source contradicts itself.
        """
        gathering = Gathering(self.source, self.info.checked and self.is_sender)
        if not self.is_sender:
            _take_part(gathering)
            return None
        began = time.perf_counter()
        try:
            update = self._store(version, gathering, keep)
        except BaseException:
            # The other ranks are gathering: leaving the collective here would hang them.
            _take_part(gathering)
            raise
        seconds = time.perf_counter() - began
        self.client.start_weight_update()
        self.client.update_weights({"version": version, "digest": gathering.digest, **update})
        self.client.finish_weight_update(str(version))
        return Sent(gathering.nbytes, gathering.seconds, seconds - gathering.seconds)

    @abstractmethod
    def _store(self, version: int, gathering: Gathering, keep: Sequence[str]) -> dict[str, Any]:
        """Put the buckets in place; returns where that is."""


class ShmEngine(PublishingEngine[ShmInitInfo]):
    """Writes every version into one of two files, over the version before the last."""

    init_info_cls = ShmInitInfo

    def __init__(self, info: ShmInitInfo, client: VLLMWeightSyncClient, source: BucketSource) -> None:
        super().__init__(info, client, source)
        self._files: list[WeightFile] = []
        if self.is_sender:
            remove_stale(info.directory)

    def shutdown(self) -> None:
        """Remove the files."""
        for file in self._files:
            file.remove()
        self._files = []

    def _store(self, version: int, gathering: Gathering, keep: Sequence[str]) -> dict[str, Any]:
        file = self._free(gathering.specs, keep)
        if file is None:
            file = WeightFile(
                choose_directory(gathering.nbytes, self.info.directory, self.info.fallback), gathering.specs
            )
        file.write(version, gathering)
        self._files.append(file)
        return {"path": str(file.path)}

    def _free(self, specs: list[TensorSpec], keep: Sequence[str]) -> WeightFile | None:
        """A file to write over; every other that is not to be kept is removed."""
        free = None
        for file in [file for file in self._files if str(file.path) not in keep]:
            self._files.remove(file)
            if free is None and file.holds(specs) and file.claim():
                free = file
            else:
                file.remove()
        return free


class StoreEngine(PublishingEngine[StoreInitInfo]):
    """Puts every version into Ray's object store."""

    init_info_cls = StoreInitInfo

    def _store(self, version: int, gathering: Gathering, keep: Sequence[str]) -> dict[str, Any]:
        layout, chunks = put(gathering.specs, gathering)
        return {"layout": layout, "chunks": chunks}


class LoraEngine(PublishingEngine[LoraInitInfo]):
    """Puts every version's adapter into Ray's object store."""

    init_info_cls = LoraInitInfo

    def _store(self, version: int, gathering: Gathering, keep: Sequence[str]) -> dict[str, Any]:
        layout, chunks = put(gathering.specs, gathering)
        return {"layout": layout, "chunks": chunks, "config": self.info.config}


def _take_part(gathering: Gathering) -> None:
    """Run through the rest for its collectives alone."""
    for _ in gathering:
        pass


for _engine in (ShmEngine, StoreEngine, LoraEngine):
    WeightTransferTrainerFactory.register_engine(_engine.init_info_cls.backend, _engine)
