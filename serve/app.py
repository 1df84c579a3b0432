"""`boxmed serve`: check the run and the port, start Ray Serve, wait, and leave nothing behind.

What lives here: the life of the service on this machine. What does not: what a replica is (deployment.py).
Ray is imported after the checks, so that a wrong folder or a taken port is told within a second.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from boxmed_ray.config import ConfigError
from boxmed_ray.ray_local import inside_cluster, ray_session
from serve.artifacts import Artifacts, load_artifacts
from serve.desk import Settings
from serve.replicas import Replicas
from serve.security import LOG_LINE, Limits, is_loopback

_APPLICATION = "boxmed"

_PATIENCE = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
}
"""Serve gives its HTTP server 5 s to start and 10 s to answer, and then kills it: too little on a busy laptop."""

LAST_RESORT_S = 3600.0
"""Ray Serve's own time-out, of whole answers, a batch's too. Ours come first (Limits): they answer in a form."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served and how.

    Attributes:
        run_folder: what `boxmed train` wrote, such as ``runs/phantom-cpu``.
        host: address to listen on.
        port: port to listen on.
        adapters: folders of further adapters, by name.
        settings: keys, feedback, origins.
        replicas: how many engines.
        limits: what one request may cost.
    """

    run_folder: Path
    host: str = "127.0.0.1"
    port: int = 8000
    adapters: Mapping[str, Path] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    replicas: Replicas = field(default_factory=Replicas)
    limits: Limits = field(default_factory=Limits)


def run(serving: Serving) -> None:
    """Serve until Ctrl-C or SIGTERM; no process of Ray is left behind.

    On SIGHUP the run folder and the adapters' are read again. A new version of an adapter is exchanged in place; a new
    backbone is loaded beside the old one, which answers what it has accepted. A folder that cannot be served changes
    nothing.

    Raises:
        ConfigError: the run is missing or unfinished, the port is taken, or the engine does not load.
    """
    if serving.settings.keys is None and not is_loopback(serving.host):
        raise ConfigError(
            f"--host {serving.host}: without keys only this machine may ask; leave --no-auth out, or --host"
        )
    artifacts = load_artifacts(serving.run_folder, serving.adapters)
    _check_port(serving.host, serving.port)
    with _stoppable() as signals, contextlib.suppress(_Stop):
        _serve(artifacts, serving, signals)
    print("stopped", file=sys.stderr)


def _serve(artifacts: Artifacts, serving: Serving, signals: _Signals) -> None:
    name = artifacts.config.name
    print(f"starting {name}: Ray, then the engine", file=sys.stderr, flush=True)
    for variable, seconds in _PATIENCE.items():
        os.environ.setdefault(variable, seconds)
    from ray import serve

    from serve.deployment import QUIET_LOGS, application

    def deploy(held: Artifacts) -> None:
        serve.run(
            application(held, serving.limits, serving.settings, serving.replicas), name=_APPLICATION, route_prefix="/"
        )

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    cpus = artifacts.config.resources.threads * max(2, serving.replicas.most)
    with ray_session(num_cpus=cpus, log_to_driver=True):
        _show_our_lines()
        running = False
        try:
            options: dict[str, Any] = {"host": serving.host, "port": serving.port, "request_timeout_s": LAST_RESORT_S}
            try:
                serve.start(http_options=options, logging_config=QUIET_LOGS)
            except TimeoutError:  # its HTTP server is late on a busy machine: join what is starting, and wait on below
                serve.start(http_options=options, logging_config=QUIET_LOGS)
            deploy(artifacts)
            running = True
            _announce(name, serving)
            while signals.wait() == "again":
                artifacts = _again(artifacts, serving, deploy)
        except Exception as error:
            if signals.stopped.is_set():  # Ray turns what a signal handler raises within its calls into its own errors
                raise _Stop from None
            if isinstance(error, TimeoutError) and not running:
                raise ConfigError(
                    f"{name}: Ray Serve did not start: {error} The machine is busy; try again when it is less so"
                ) from error
            if isinstance(error, RuntimeError) and not running:
                raise ConfigError(f"{name}: the engine did not load: {_reason(error)}") from error
            raise
        finally:
            # Requests in flight finish first. A private Ray that has served nothing just ends with the session.
            if running or inside_cluster():
                serve.delete(_APPLICATION)


def _show_our_lines() -> None:
    """Hand on the lines that replicas log, and nothing that Ray and vLLM say: that is in Ray's own logs."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher

    def show(batch: dict[str, Any]) -> None:
        for line in batch["lines"]:
            if line.startswith(LOG_LINE.partition("%")[0]):
                print(line, file=sys.stderr, flush=True)

    global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")
    global_worker_stdstream_dispatcher.add_handler("boxmed", show)


def _again(served: Artifacts, serving: Serving, deploy: Callable[[Artifacts], None]) -> Artifacts:
    """Read the folders again and serve what is new in them; what is served afterwards."""
    try:
        found = load_artifacts(serving.run_folder, serving.adapters)
    except ConfigError as error:
        print(f"not changed: {error}", file=sys.stderr, flush=True)
        return served
    if found == served:
        print("not changed: the same versions", file=sys.stderr, flush=True)
        return served
    try:
        deploy(found)
    except RuntimeError as error:
        print(f"not changed: {_reason(error)}", file=sys.stderr, flush=True)
        deploy(served)
        return served
    versions = ", ".join(adapter.versioned for adapter in found.adapters)
    print(f"serving backbone {found.backbone_version}, adapters {versions}", flush=True)
    return found


def _announce(name: str, serving: Serving) -> None:
    shown = f"[{serving.host}]" if ":" in serving.host else serving.host
    address = f"http://{shown}:{serving.port}"
    key = "" if serving.settings.keys is None else '-H "Authorization: Bearer $BOXMED_KEY" '
    print(f"serving {name} at {address} (Ctrl-C stops; the page is {address}/)", flush=True)
    print(f"  curl -s {key}-F image=@FILE {address}/v1/reports", flush=True)
    if not is_loopback(serving.host):
        print(
            "  warning: keys and images travel unencrypted; put a proxy with TLS in front", file=sys.stderr, flush=True
        )


def _check_port(host: str, port: int) -> None:
    """Say at once that a port is taken: Ray Serve would only say so after the cluster has started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                remedy = "is in use; stop what listens there or choose another (--port N)"
            elif error.errno == errno.EACCES:
                remedy = "needs privileges; choose one above 1023 (--port N)"
            else:
                remedy = f"cannot be listened on ({error.strerror}); choose another address (--host ADDRESS)"
            raise ConfigError(f"port {port} of {host} {remedy}") from error
        except (OverflowError, UnicodeError) as error:
            raise ConfigError(f"host {host!r}, port {port}: not an address; ports are 1 to 65535") from error


def _reason(error: BaseException) -> str:
    """The replica's own error where Serve kept it: the last line of its traceback."""
    from ray import serve

    application = serve.status().applications.get(_APPLICATION)
    deployments = application.deployments.values() if application else ()
    told = "\n".join(deployment.message for deployment in deployments) or str(error)
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _Stop(BaseException):
    """SIGINT or SIGTERM during start-up, raised out of whatever was going on."""


@dataclass(slots=True)
class _Signals:
    """Signals that came: one to stop, and any number to read again."""

    stopped: threading.Event = field(default_factory=threading.Event)
    heard: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def wait(self) -> str:
        return self.heard.get()


@contextlib.contextmanager
def _stoppable() -> Iterator[_Signals]:
    """Turn SIGINT and SIGTERM into a stop: an exception the first time, nothing after it; SIGHUP into a word."""
    signals = _Signals()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if not signals.stopped.is_set():
            signals.stopped.set()
            raise _Stop

    def again(_number: int, _frame: FrameType | None) -> None:
        signals.heard.put("again")

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: again}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
