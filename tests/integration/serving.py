"""A service as a user starts it, in a process of its own, for the tests that ask it over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from serve.schemas import Report
from tests.serve import hostile
from tests.serve.tiny_run import radiograph

QUICK_METRICS = {"RAY_metrics_report_interval_ms": "500"}
"""Ray's exporter gathers every 10 s otherwise, and a test would wait for it."""


@dataclass
class Server:
    """A service that runs; ``key`` is empty where it asks for none."""

    port: int
    run: Path
    process: subprocess.Popen[bytes]
    log: Path
    key: str = ""
    keys: Path = Path()
    feedback: Path = Path()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=120)

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=120)

    def post(self, headers: dict[str, str] | None = None, **request: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/reports", headers=self.headers | (headers or {}), timeout=120, **request)

    def report(self, **request: Any) -> Report:
        response = self.post(**request)
        assert response.status_code == 200, response.text
        return Report.model_validate(response.json())


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "boxmed_ray.cli", "serve", *map(str, arguments)]


@contextmanager
def serving(run: Path, *options: object, **known: Any) -> Iterator[Server]:
    """`boxmed serve run options`, ready; ``known`` are further fields of the server."""
    port, log = free_port(), run.parent / f"log-{time.monotonic_ns()}"
    with log.open("wb") as out:
        # A session of its own, as a terminal gives it: Ctrl-C reaches the whole group.
        process = subprocess.Popen(
            command(run, "--port", port, *options),
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=os.environ | QUICK_METRICS,
        )
    server = Server(port, run, process, log, **known)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        _end(process)


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + 800  # on a machine that does much else
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            if httpx.get(f"{server.url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"the service did not become ready:\n{server.log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in children:
            if child.is_running():
                child.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def png(width: int = 300, height: int = 200) -> bytes:
    return hostile.encoded(radiograph(width, height))
