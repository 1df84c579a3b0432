"""The deployment: replicas of Ray Serve, each with one engine and the application over it.

What lives here: what a replica is made of and what it occupies. What does not: starting and stopping
(app.py), routes (routes_*.py), the engine (engine.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from ray import serve
from ray.serve.config import BackpressureConfig

from serve.api import build_app
from serve.artifacts import Adapter, Artifacts
from serve.desk import Settings
from serve.engine import ServingEngine
from serve.grounded import GroundedReport, Reporter, Wanted
from serve.images import Radiograph, tame_decoders
from serve.metrics import RayMetrics, exported
from serve.questions import Completion, Listener, Question
from serve.replicas import Replicas
from serve.schemas import ModelInfo, Sentence
from serve.security import LOG_LINE, Limits

QUIET_LOGS = {"enable_access_log": False, "log_level": "WARNING"}
"""Serve's access log, and what it says of clients that leave, hold what a client writes into a path or X-Request-ID;
the application logs its own lines."""

_REACHED = 1024
"""Requests that reach a replica at a time, to be answered or refused."""


@serve.ingress()
class ReportService:
    """One replica: an engine and the application over it. Built when its engine is loaded, never before."""

    def __init__(self, artifacts: Artifacts, limits: Limits, settings: Settings) -> None:
        tame_decoders(limits)
        _log_to_stderr()
        self._artifacts, self._limits, self._settings = artifacts, limits, settings
        self.side = artifacts.config.data.image_size
        self.answer_tokens = artifacts.config.evaluate.report_tokens
        self._held = {adapter.name: adapter for adapter in artifacts.adapters}
        self._engine = ServingEngine(artifacts)
        self._reporter = Reporter(self._engine, artifacts.config, limits.sentences)
        self.observer = RayMetrics(artifacts.config.name)

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Ray Serve after the constructor."""
        app = build_app(self, self._limits, self._settings)

        @app.get("/metrics", include_in_schema=False)
        async def metrics() -> Any:
            from starlette.responses import PlainTextResponse

            self.observer.engine(self._engine.counters)
            return PlainTextResponse(await exported())

        return app

    async def reconfigure(self, told: Sequence[dict[str, Any]]) -> None:
        """Called by Ray Serve with the deployment's ``user_config``: serve these adapters, without a restart."""
        adapters = [Adapter(**one | {"folder": Path(one["folder"])}) for one in told]
        held = {adapter.name: adapter for adapter in adapters}
        if held != self._held:
            await asyncio.to_thread(self._engine.exchange, adapters)
            self._held = held

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters; the first is the run's."""
        return list(self._held)

    def model(self, adapter: str) -> ModelInfo:
        """What answers under that name."""
        held = self._held[adapter]
        return ModelInfo(
            name=self._artifacts.config.name,
            backbone_version=self._artifacts.backbone_version,
            adapter=held.versioned,
            adapter_version=held.version,
            weight_version=self._artifacts.weight_version,
        )

    def check(self) -> None:
        """Raise where the engine is dead."""
        self._engine.check()

    def check_health(self) -> None:
        """Called by Ray Serve every few seconds; raising makes it replace this replica."""
        self.observer.engine(self._engine.counters)
        self._engine.check()

    async def report(
        self, radiograph: Radiograph, wanted: Wanted, told: Callable[[str], None] | None = None
    ) -> GroundedReport:
        """Write and ground a report."""
        return await self._reporter.write(radiograph.seen, radiograph.width, radiograph.height, wanted, told)

    async def locate(self, radiograph: Radiograph, phrase: str) -> Sentence:
        """Locate one phrase."""
        return (await self._reporter.locate(radiograph.seen, [phrase], radiograph.width, radiograph.height))[0]

    async def ask(self, image: Image.Image | None, question: Question, listener: Listener | None = None) -> Completion:
        """Answer one question."""
        return (await self._engine.ask(image, [question], listener))[0]


def _log_to_stderr() -> None:
    """Lines on the replica's standard error, which Ray hands on."""
    log, handler = logging.getLogger("boxmed.serve"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_LINE, "%Y-%m-%dT%H:%M:%S%z"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def application(artifacts: Artifacts, limits: Limits, settings: Settings, replicas: Replicas) -> Any:
    """The application for ``serve.run``.

    The adapters are its user configuration: where they alone change, replicas exchange them without a restart.
    """
    resources = artifacts.config.resources
    number: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        number = {
            "autoscaling_config": {
                "min_replicas": replicas.least,
                "max_replicas": replicas.most,
                "target_ongoing_requests": replicas.target,
                "upscale_delay_s": 5,
                "downscale_delay_s": replicas.idle_s,
            }
        }
    deployment = serve.deployment(ReportService).options(
        name="reports",
        # Far above our own limit: then the excess gets our answer (503 with Retry-After), not a place in a queue of
        # Serve's, whose refusals have no form, and behind which a question after health would wait too.
        max_ongoing_requests=_REACHED,
        max_queued_requests=_REACHED,
        backpressure_config=BackpressureConfig(retry_after_s=5),
        max_constructor_retry_count=1,  # an engine that does not load will not load the second time
        health_check_period_s=5,
        health_check_timeout_s=60,  # a busy machine is not a dead engine
        logging_config=QUIET_LOGS,
        graceful_shutdown_timeout_s=limits.answer_s + 10,  # an accepted request is answered
        user_config=[asdict(adapter) | {"folder": str(adapter.folder)} for adapter in artifacts.adapters],
        # Serve would give every deployment a version of its own, and replace all replicas.
        _internal=True,
        version=f"{artifacts.backbone_version}-{max(adapter.rank for adapter in artifacts.adapters)}",
        ray_actor_options={
            "num_cpus": resources.threads,
            "num_gpus": resources.gpus_per_rollout,
        },
        **number,
    )
    return deployment.bind(artifacts, limits, settings)
