"""Prometheus metrics of a replica, through Ray's own exporter, which gathers those of all replicas on a node.

What lives here: names, labels, buckets. What does not: when something happens (desk.py). No label
holds a word of a client.
"""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from serve.desk import Observer
from serve.engine_start import Counters

_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
_STATUS = ("1xx", "2xx", "3xx", "4xx", "5xx")


class RayMetrics(Observer):
    """Counters, gauges and histograms named ``ray_boxmed_*`` at Ray's Prometheus port."""

    def __init__(self, model: str) -> None:
        tags: dict[str, Any] = {"model": model}

        def named(kind: Any, name: str, description: str, *keys: str, **more: Any) -> Any:
            metric = kind(f"boxmed_{name}", description, tag_keys=("model", *keys), **more)
            metric.set_default_tags(tags)
            return metric

        self._requests = named(Counter, "requests", "Requests answered.", "route", "status")
        self._seconds = named(
            Histogram, "request_seconds", "From the first byte to the answer's head.", "route", boundaries=_SECONDS
        )
        self._phases = named(Histogram, "phase_seconds", "Parts of a request.", "phase", boundaries=_SECONDS)
        self._waiting = named(Gauge, "requests_under_way", "Requests under way in this replica.")
        self._gauges = {
            name: named(Counter, f"engine_{name}", description)
            for name, description in (
                ("questions", "Prompts that the engine answered."),
                ("prompt_tokens", "Tokens of prompts, those of images among them."),
                ("cached_tokens", "Of these, found in the prefix cache."),
                ("tokens", "Tokens of answers."),
                ("encoded_images", "Images that went through the vision tower."),
            )
        }
        self._counted: dict[str, int] = dict.fromkeys(self._gauges, 0)

    def phase(self, name: str, seconds: float) -> None:
        """A part of a request took that long."""
        self._phases.observe(seconds, {"phase": name})

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.inc(1, {"route": route, "status": _STATUS[status // 100 - 1]})
        self._seconds.observe(seconds, {"route": route})

    def waiting(self, count: int) -> None:
        """So many requests are under way."""
        self._waiting.set(count)

    def engine(self, counters: Counters) -> None:
        """What the engine has counted since the last call."""
        for name, metric in self._gauges.items():
            total = getattr(counters, name)
            if grown := total - self._counted[name]:
                metric.inc(grown)
                self._counted[name] = total


async def exported() -> str:
    """What Ray's exporter on this node says of BoxMed and of Serve, in Prometheus' text form."""
    import httpx
    import ray

    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    async with httpx.AsyncClient(timeout=5) as client:
        answer = await client.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics")
    lines = answer.text.splitlines(keepends=True)
    return "".join(line for line in lines if "ray_boxmed_" in line or "ray_serve_" in line)
