"""`boxmed serve`: check the run and the port, start Ray Serve, wait, and leave nothing behind.

What lives here: the life of the service on this machine. What does not: what a replica is (deployment.py).
Ray is imported after the checks, so that a wrong folder or a taken port is told within a second.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from boxmed_ray.config import ConfigError
from boxmed_ray.ray_local import inside_cluster, ray_session
from serve.artifacts import Artifacts, load_artifacts
from serve.security import Limits, is_loopback

_APPLICATION = "boxmed"

_PATIENCE = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
}
"""Serve gives its HTTP server 5 s to start and 10 s to answer, and then kills it: too little on a busy laptop."""

_LAST_RESORT_S = 180.0
"""Ray Serve's own time-out. Ours come first (Limits), because they answer in the form of the API."""


def run(run_folder: Path, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None) -> None:
    """Serve a finished run until Ctrl-C or SIGTERM; no process of Ray is left behind.

    Args:
        run_folder: what `boxmed train` wrote, such as ``runs/phantom-cpu``.
        host: address to listen on. There is no authentication: keep it on the loopback, or behind a proxy.
        port: port to listen on.
        limits: what one request may cost.

    Raises:
        ConfigError: the run is missing or unfinished, the port is taken, or the engine does not load.
    """
    artifacts = load_artifacts(run_folder)
    _check_port(host, port)
    with _stoppable() as stopped, contextlib.suppress(_Stop):
        _serve(artifacts, host, port, limits or Limits(), stopped)
    print("stopped", file=sys.stderr)


def _serve(artifacts: Artifacts, host: str, port: int, limits: Limits, stopped: threading.Event) -> None:
    name = artifacts.config.name
    print(f"starting {name}: Ray, then the engine", file=sys.stderr, flush=True)
    for variable, seconds in _PATIENCE.items():
        os.environ.setdefault(variable, seconds)
    from ray import serve

    from serve.deployment import QUIET_LOGS, application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ray_session(num_cpus=artifacts.config.resources.threads):
        running = False
        try:
            serve.start(
                http_options={"host": host, "port": port, "request_timeout_s": _LAST_RESORT_S},
                logging_config=QUIET_LOGS,
            )
            serve.run(application(artifacts, limits), name=_APPLICATION, route_prefix="/")
            running = True
            _announce(name, host, port)
            stopped.wait()
        except Exception as error:
            if stopped.is_set():  # Ray turns what a signal handler raises within its calls into errors of its own
                raise _Stop from None
            if isinstance(error, RuntimeError) and not running:
                raise ConfigError(f"{name}: the engine did not load: {_reason(error)}") from error
            raise
        finally:
            # Requests in flight finish first. A private Ray that has served nothing just ends with the session.
            if running or inside_cluster():
                serve.delete(_APPLICATION)


def _announce(name: str, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {name} at http://{shown}:{port} (Ctrl-C stops)", flush=True)
    print(f"  curl -s -F image=@FILE http://{shown}:{port}/v1/reports", flush=True)
    if not is_loopback(host):
        print(
            "  warning: requests are not authenticated, and this address can be reached from other machines",
            file=sys.stderr,
            flush=True,
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


@contextlib.contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into a stop: an exception the first time, nothing after it."""
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if not stopped.is_set():
            stopped.set()
            raise _Stop

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
