"""Rollout workers as the pusher sees them: five phases, each with a timeout, over all workers at once.

What lives here: the phases, the clients (a local engine, a Ray actor), what a push reports and how it
fails. What does not: the weights (weights.py) and what a worker does in a phase (vllm_engine.py).

    pause → start → update → finish → resume

A worker that fails or is late in a phase takes no further part in the push; the others finish it. One
straggler therefore costs itself and nobody else, and the error at the end names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Phase(StrEnum):
    """A step of a push, in order; CONNECT happens once per worker, before its first push."""

    CONNECT = "connect"
    PAUSE = "pause"
    START = "start"
    UPDATE = "update"
    FINISH = "finish"
    RESUME = "resume"


Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one worker took no further part."""

    worker: str
    phase: Phase
    reason: str

    def __str__(self) -> str:
        return f"{self.worker} in phase {self.phase}: {self.reason}"


@dataclass(slots=True)
class PushReport:
    """What a push did.

    Attributes:
        version: learner updates behind the weights.
        backend: the way that the weights travelled.
        nbytes: size of the weights.
        gather_s: seconds until the learner's parameters were whole.
        transport_s: seconds in which they were put where workers read them.
        phases_s: seconds of each phase, from the end of the one before on the slowest worker to its own end there.
        workers: names of the workers that have the version.
        failures: the others.
    """

    version: int
    backend: str = ""
    nbytes: int = 0
    gather_s: float = 0.0
    transport_s: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def total_s(self) -> float:
        """Seconds from gathering to the last worker's resumption."""
        return self.gather_s + self.transport_s + sum(self.phases_s.values())


class PushError(RuntimeError):
    """At least one worker does not have the version. ``report.failures`` says which, where and why.

    Those workers refuse to generate until a whole version reaches them; the others go on.
    """

    def __init__(self, report: PushReport) -> None:
        self.report = report
        failed = "; ".join(str(failure) for failure in report.failures)
        super().__init__(f"weight push of version {report.version} failed: {failed}")

    def __reduce__(self) -> tuple[type[PushError], tuple[PushReport]]:
        # Exceptions are pickled by their message; this one must cross Ray with its report.
        return PushError, (self.report,)


class Pending(Protocol):
    """A phase under way on one worker."""

    def result(self, timeout_s: float) -> None:
        """Wait for the end of the phase.

        Raises:
            TimeoutError: it has not ended.
            Exception: whatever the worker raised, or the news of its death.
        """


class WorkerClient(Protocol):
    """How the pusher reaches one worker."""

    @property
    def name(self) -> str:
        """For messages."""

    def submit(self, phase: Phase, payload: Payload) -> Pending:
        """Begin ``phase`` without waiting for it."""


class WeightReceiver(Protocol):
    """What a worker offers: one method, called phase by phase (RolloutEngine has it)."""

    def weight_phase(self, phase: str, payload: Payload) -> None:
        """Carry out one phase."""


@dataclass(slots=True)
class _LocalPending:
    future: Future[None]

    def result(self, timeout_s: float) -> None:
        self.future.result(timeout_s)


class LocalClient:
    """A worker in this process, on a thread of its own so that a phase that hangs can be given up."""

    def __init__(self, receiver: WeightReceiver, name: str = "local") -> None:
        self._receiver, self._name = receiver, name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"weights-{name}")

    @property
    def name(self) -> str:
        """For messages."""
        return self._name

    def submit(self, phase: Phase, payload: Payload) -> Pending:
        """Begin ``phase`` on the thread."""
        return _LocalPending(self._thread.submit(self._receiver.weight_phase, str(phase), payload))


@dataclass(slots=True)
class _RayPending:
    reference: Any

    def result(self, timeout_s: float) -> None:
        import ray

        ray.get(self.reference, timeout=timeout_s)  # its GetTimeoutError is a TimeoutError


class RayClient:
    """A worker behind a Ray actor handle."""

    def __init__(self, handle: Any, name: str) -> None:
        self._handle, self._name = handle, name

    @property
    def name(self) -> str:
        """For messages."""
        return self._name

    def submit(self, phase: Phase, payload: Payload) -> Pending:
        """Begin ``phase`` by a remote call."""
        return _RayPending(self._handle.weight_phase.remote(str(phase), dict(payload)))


class WorkerFleet:
    """All workers of a push. Also vLLM's ``VLLMWeightSyncClient``, for its trainer-side factory.

    Args:
        clients: the workers.
        timeout_s: of each phase, over all workers together.
        engine: that receives on the workers (weight_backend.py).
        together: a worker that falls out ends the push for all, as the others would wait for it in a collective.
    """

    def __init__(
        self, clients: Sequence[WorkerClient], timeout_s: float, *, engine: str = "boxmed", together: bool = False
    ) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s = {timeout_s}: must be above 0 seconds")
        self.clients = list(clients)
        self._timeout_s, self._engine, self._together = timeout_s, engine, together
        self.active: list[WorkerClient] = []
        """Workers that take part in the push under way."""
        self.report = PushReport(version=-1)

    def begin(self, version: int, clients: Sequence[WorkerClient] | None = None) -> PushReport:
        """Open a push to ``clients`` (all by default) and return the report that the phases fill."""
        self.active = list(self.clients if clients is None else clients)
        self.report = PushReport(version=version)
        return self.report

    def close(self) -> PushReport:
        """Close the push, whoever fell out of it."""
        self.report.workers = [client.name for client in self.active]
        self.active = []
        return self.report

    def end(self) -> PushReport:
        """Close the push.

        Raises:
            PushError: a worker fell out.
        """
        if self.close().failures:
            raise PushError(self.report)
        return self.report

    def run(self, *phases: tuple[Phase, Payload]) -> None:
        """Phases in order on every worker still taking part; those that fail fall out.

        All phases are handed over at once, and a worker, which does one thing at a time, begins each when it has ended
        the one before: nobody waits for the round trip or for a slower neighbour in between. What a worker that failed
        still does of the later phases is ignored; it stays out of service whatever it does.

        Raises:
            PushError: a worker fell out, where they take part together.
        """
        begun = {client: [_submit(client, *phase) for phase in phases] for client in self.active}
        for index, (phase, _) in enumerate(phases):
            self._await(phase, {client: pending[index] for client, pending in begun.items()})

    def _await(self, phase: Phase, begun: Mapping[WorkerClient, Callable[[], Pending]]) -> None:
        """Wait for the end of ``phase`` on the workers still taking part."""
        started = time.monotonic()
        deadline = started + self._timeout_s
        survivors: list[WorkerClient] = []
        for client in self.active:
            try:
                begun[client]().result(max(0.0, deadline - time.monotonic()))
                survivors.append(client)
            except TimeoutError:
                self._fail(client, phase, f"no answer within {self._timeout_s:g} s")
            except Exception as error:
                # Whatever ended it: this worker is out, and the report says why.
                self._fail(client, phase, _reason(error))
        self.active = survivors
        seconds = self.report.phases_s
        seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - started
        if self._together and self.report.failures:
            self.active = []
            self.end()

    def _fail(self, client: WorkerClient, phase: Phase, reason: str) -> None:
        self.report.failures.append(Failure(client.name, phase, reason))

    # vLLM's VLLMWeightSyncClient

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Handshake: tell every worker what will come. NCCL numbers processes, and gives the first worker's number."""
        first = init_info.get("rank_offset")
        begun = {}
        for index, client in enumerate(self.active):
            number = {} if first is None else {"rank_offset": first + index}
            begun[client] = _submit(client, Phase.CONNECT, {"backend": self._engine, **init_info, **number})
        self._await(Phase.CONNECT, begun)

    def start_weight_update(self) -> None:
        """Make ready to receive."""
        self.run((Phase.PAUSE, {}), (Phase.START, {}))

    def update_weights(self, update_info: Any) -> None:
        """Load what ``update_info`` says."""
        self.run((Phase.UPDATE, update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Put the loaded weights into use, as the version that the push began with."""
        self.run((Phase.FINISH, {"version": self.report.version}), (Phase.RESUME, {}))


def _submit(client: WorkerClient, phase: Phase, payload: Payload) -> Callable[[], Pending]:
    """Begin a phase; an error in beginning it (a dead actor) is raised where its result is asked for."""
    try:
        pending = client.submit(phase, payload)
    except Exception as error:
        failed = error

        def fail() -> Pending:
            raise failed

        return fail
    return lambda: pending


def _reason(error: BaseException) -> str:
    # Ray wraps a worker's error; its own type and message are what a user needs.
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {(str(cause).strip() or repr(cause)).splitlines()[0]}"
