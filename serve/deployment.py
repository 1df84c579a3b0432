"""The deployment: one replica of Ray Serve with one engine and the application over it.

What lives here: what a replica is made of and what it occupies. What does not: starting and stopping
(app.py), routes (api.py), the engine (engine.py).
"""

from __future__ import annotations

import logging
from typing import Any

from ray import serve

from serve.api import build_app
from serve.artifacts import Artifacts
from serve.engine import ServingEngine
from serve.grounded import GroundedReport, Reporter
from serve.images import Radiograph, silence_decoders
from serve.schemas import ModelInfo
from serve.security import Limits

QUIET_LOGS = {"enable_access_log": False}
"""Serve's access log holds what a client writes into a path or X-Request-ID; the application logs its own lines."""


@serve.ingress()
class ReportService:
    """One replica: an engine and the application over it. Built when its engine is loaded, never before."""

    def __init__(self, artifacts: Artifacts, limits: Limits) -> None:
        silence_decoders()
        logging.getLogger("boxmed.serve").setLevel(logging.INFO)
        self._limits = limits
        self.side = artifacts.config.data.image_size
        self._engine = ServingEngine(artifacts)
        self._reporter = Reporter(self._engine, artifacts.config, limits.sentences)
        self.model = ModelInfo(
            name=artifacts.config.name,
            backbone_version=artifacts.backbone_version,
            adapter=self._engine.adapter_name,
            adapter_version=artifacts.adapter_version,
            weight_version=artifacts.weight_version,
        )

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Ray Serve after the constructor."""
        return build_app(self, self._limits)

    def check(self) -> None:
        """Raise where the engine is dead."""
        self._engine.check()

    def check_health(self) -> None:
        """Called by Ray Serve; raising makes it replace this replica."""
        self._engine.check()

    async def report(self, radiograph: Radiograph) -> GroundedReport:
        """Write and ground a report."""
        return await self._reporter.write(radiograph.seen, radiograph.width, radiograph.height)


def application(artifacts: Artifacts, limits: Limits) -> Any:
    """The application for ``serve.run``."""
    resources = artifacts.config.resources
    deployment = serve.deployment(ReportService).options(
        name="reports",
        num_replicas=1,
        # Above our own limit: then the excess gets our answer (503 with Retry-After), not a place in a queue.
        max_ongoing_requests=limits.waiting + 16,
        max_queued_requests=limits.waiting,
        max_constructor_retry_count=1,  # an engine that does not load will not load the second time
        health_check_period_s=5,
        health_check_timeout_s=60,  # a busy machine is not a dead engine
        logging_config=QUIET_LOGS,
        graceful_shutdown_timeout_s=30,
        ray_actor_options={
            "num_cpus": resources.threads,
            "num_gpus": resources.gpus_per_rollout,
        },
    )
    return deployment.bind(artifacts, limits)
