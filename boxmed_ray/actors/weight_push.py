"""The driver's side of a weight push: the learner publishes a version, and workers are given the newest one.

What lives here: which publication is the newest, who still reads it, the phases on the workers over Ray. Light: imports
neither vLLM nor torch. What does not: gathering and publishing (weights.py), phases and timeouts (weight_fleet.py), the
choice of a way (weight_backend.py).

    publish   all learner ranks; they are blocked for gathering and transport only
    deliver   connect → pause → start → update → finish → resume on the workers, while the learner learns

Two publications are kept at most: the newest, and the one before it for as long as somebody reads it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from boxmed_ray.actors.weight_backend import COLLECTIVE, WORKER_ENGINE, Backend, Layout, choose_backend
from boxmed_ray.actors.weight_fleet import (
    Failure,
    Phase,
    PushError,
    PushReport,
    RayClient,
    WorkerFleet,
)

if TYPE_CHECKING:
    from boxmed_ray.actors.learner_group import LearnerGroup

_NONE: Final = frozenset[str]()
__all__ = ["Publication", "PushError", "PushReport", "WeightPush"]


@dataclass(frozen=True, eq=False)
class Publication:
    """One version of the weights, readable until it is dropped.

    Attributes:
        version: learner updates behind it.
        backend: the way it travels.
        update: payload of phase UPDATE; where the weights are, or under NCCL and IPC nothing.
        nbytes: of the weights.
        gather_s: seconds until the learner's parameters were whole, merged where there is LoRA.
        transport_s: seconds in which they were put where workers read them.
    """

    version: int
    backend: Backend
    update: Mapping[str, Any]
    nbytes: int
    gather_s: float
    transport_s: float

    @property
    def collective(self) -> bool:
        """Whether every delivery needs the learner, which then sends what it holds at that time."""
        return self.backend in COLLECTIVE


class WeightPush:
    """Publishes a learner's versions and delivers them to rollout workers.

    Args:
        learner: all its ranks.
        timeout_s: of each phase.
        workers: name → handle of the present workers, asked before each publication; where there are GPUs, the way
            depends on which ones the workers have.
    """

    def __init__(
        self, learner: LearnerGroup, timeout_s: float, workers: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        self._learner, self._timeout_s, self._workers = learner, timeout_s, workers
        self._changed = threading.Condition()
        self._publishing = threading.Lock()
        self._readers: Counter[Publication] = Counter()
        self._busy: set[str] = set()
        self._connected: dict[str, str] = {}
        self._sent: dict[str, Publication] = {}  # by the learner itself, to the worker of that key
        self._gpus: dict[str, frozenset[str]] = {}
        self.latest: Publication | None = None

    def publish(self) -> Publication:
        """Publish the learner's present weights; call it between two updates.

        Waits while deliveries of an older version than the newest are under way, which their timeouts bound.

        Raises:
            LearnerError: a learner rank failed.
            BackendError: ``svr.push`` asks for a way that does not fit.
        """
        with self._publishing:
            with self._changed:
                self._changed.wait_for(lambda: all(one is self.latest for one in self._readers))
                keep = [] if self.latest is None else [self.latest]
            fields = self._learner.publish_weights(
                self._backend(), [path for one in keep if (path := one.update.get("path"))]
            )
            publication = Publication(**fields)
            with self._changed:
                self.latest = publication
            return publication

    def deliver(self, workers: Sequence[tuple[str, Any]]) -> PushReport:
        """Give the newest publication to ``workers`` (name and actor handle of each).

        From any thread, and at once for different workers; two deliveries to the same worker follow each other. The
        learner is not called, and may be learning, unless the publication is ``collective``: then all its ranks
        take part, so that a call between two updates is best, and the version is the one that they hold.

        Raises:
            RuntimeError: nothing was published yet.
            PushError: a worker failed or was late; the others have the version. It refuses to generate until a
                whole version reaches it.
            LearnerError: a learner rank failed, where it takes part.
        """
        keys = {name: handle._actor_id.hex() for name, handle in workers}
        with self._alone_with(set(keys.values())), self._reading() as publication:
            if publication.collective:
                # Whoever had it with the others is not sent it once more: that would stop the learner again.
                missing = [(name, handle) for name, handle in workers if self._sent.get(keys[name]) is not publication]
                report = self._through_learner(publication, missing)
                self._sent |= {keys[name]: publication for name in report.workers}
            else:
                report = self._through_fleet(publication, workers, keys)
        if report.failures:
            raise PushError(report)
        return report

    def shutdown(self) -> None:
        """Forget the publications; what the learner keeps of them, it removes when it is shut down."""
        with self._changed:
            self.latest = None

    @contextmanager
    def _reading(self) -> Iterator[Publication]:
        """The newest publication, kept for the duration of the block."""
        with self._changed:
            publication = self.latest
            if publication is None:
                raise RuntimeError("no version is published: publish once before workers may be given one")
            self._readers[publication] += 1
        try:
            yield publication
        finally:
            with self._changed:
                self._readers[publication] -= 1
                self._readers += Counter()  # without those that nobody reads
                self._changed.notify_all()

    @contextmanager
    def _alone_with(self, keys: set[str]) -> Iterator[None]:
        # Phases of two versions must not mingle on one worker.
        with self._changed:
            self._changed.wait_for(lambda: not keys & self._busy)
            self._busy |= keys
        try:
            yield
        finally:
            with self._changed:
                self._busy -= keys
                self._changed.notify_all()

    def _through_fleet(
        self, publication: Publication, workers: Sequence[tuple[str, Any]], keys: Mapping[str, str]
    ) -> PushReport:
        fleet = WorkerFleet([RayClient(handle, name) for name, handle in workers], self._timeout_s)
        report = fleet.begin(publication.version)
        report.backend, report.nbytes = publication.backend, publication.nbytes
        report.gather_s, report.transport_s = publication.gather_s, publication.transport_s
        engine = WORKER_ENGINE[publication.backend]
        if any(self._connected.get(key) != engine for key in keys.values()):
            fleet.run((Phase.CONNECT, {"backend": engine}))
        version = {"version": publication.version}
        fleet.run(
            (Phase.PAUSE, {}),
            (Phase.START, {}),
            (Phase.UPDATE, publication.update),
            (Phase.FINISH, version),
            (Phase.RESUME, {}),
        )
        report = fleet.close()
        for name, key in keys.items():
            if name in report.workers:
                self._connected[key] = engine
            else:
                self._connected.pop(key, None)
        return report

    def _through_learner(self, publication: Publication, workers: Sequence[tuple[str, Any]]) -> PushReport:
        if not workers:
            return PushReport(version=publication.version)
        began = time.monotonic()
        fields = self._learner.transfer_weights(publication.backend, workers)
        failures = [Failure(*failure) for failure in fields.pop("failures")]
        report = PushReport(**fields, failures=failures)
        report.transport_s = time.monotonic() - began
        return report

    def _backend(self) -> Backend:
        """The way for the next publication."""
        config = self._learner.config
        resources, svr = config.resources, config.svr
        adapter, checked = svr.adapter_rank > 0, resources.check_weights
        worker_gpus = self._gpus_of_workers() if resources.gpus_per_learner and resources.gpus_per_rollout else _NONE
        node, learner_gpus = self._learner_place()
        layout = Layout(node, live_nodes(), learner_gpus, worker_gpus, adapter=adapter, checked=checked)
        return choose_backend(svr.push, layout)

    def _learner_place(self) -> tuple[str, frozenset[str]]:
        """Node of rank 0, and GPUs of all ranks."""
        import ray

        places = ray.get([rank.__ray_call__.remote(place) for rank in self._learner.ranks], timeout=self._timeout_s)
        return places[0][0], _NONE.union(*(gpus for _, gpus in places))

    def _gpus_of_workers(self) -> frozenset[str]:
        import ray

        handles = {handle._actor_id.hex(): handle for handle in self._workers().values()}
        asked = {key: handle.__ray_call__.remote(place) for key, handle in handles.items() if key not in self._gpus}
        for key, reference in asked.items():
            self._gpus[key] = ray.get(reference, timeout=self._timeout_s)[1]
        return _NONE.union(*(self._gpus[key] for key in handles))


def place(_: Any) -> tuple[str, frozenset[str]]:
    """Node of the actor that calls this, and its GPUs under names that no two nodes share."""
    import ray

    context = ray.get_runtime_context()
    node = context.get_node_id()
    return node, frozenset(f"{node}/{gpu}" for gpu in context.get_accelerator_ids().get("GPU", []))


def live_nodes() -> frozenset[str]:
    """Nodes of the cluster that have processors to give, where workers are or may come."""
    import ray

    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
