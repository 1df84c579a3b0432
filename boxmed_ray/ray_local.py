"""A private Ray for one run on this machine, or a connection to the cluster the run was submitted to.

What lives here: starting Ray, its token, its temporary folder and memory, and making sure that no
process of it is left behind whatever ends the run. What does not: what runs on it (pipeline.py,
stages/, actors/).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

#: What keeps a run quiet and offline-safe. Set before Ray, vLLM or transformers are imported; a value
#: that the user has set already stands.
QUIET_ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

_OBJECT_STORE_BYTES = 1 << 30
_GRACE_S = 5.0
_ATTEMPTS = 3
_PREFIX = "boxmed-ray-"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Handlers = dict[signal.Signals, Any]


def quiet_environment() -> None:
    """Turn usage reports and noise of the libraries off, in this process and its children."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def inside_cluster() -> bool:
    """Whether a cluster is given (``RAY_ADDRESS``: set by the user, or by Ray inside a submitted job)."""
    return os.environ.get("RAY_ADDRESS", "") not in ("", "local")


@contextlib.contextmanager
def ray_session(
    *, num_cpus: float | None = None, num_gpus: float | None = None, log_to_driver: bool = False
) -> Iterator[Path | None]:
    """Ray for the duration of a ``with`` block; nothing of it outlives the block.

    With ``RAY_ADDRESS`` set, connects to that cluster and only disconnects at the end. Otherwise starts
    a private Ray with token authentication, a token of its own that is never written to disk, and a
    temporary folder that is removed at the end, or kept, with a message, if the block failed.

    Args:
        num_cpus: CPUs that a private Ray offers; None lets Ray count them.
        num_gpus: GPUs that a private Ray offers; None lets Ray count them.
        log_to_driver: Print what actors print. Off by default: it tears progress bars apart, and the
            text of an actor's error reaches the driver anyhow.

    Yields:
        The temporary folder with Ray's logs, or None on a cluster.
    """
    if inside_cluster():
        with _connected({"address": os.environ["RAY_ADDRESS"], "log_to_driver": log_to_driver}):
            yield None
        return
    _sweep()
    _private_token()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    options = {
        "address": "local",
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "include_dashboard": False,
        "object_store_memory": _object_store_bytes(),
        "_temp_dir": str(folder),
        "log_to_driver": log_to_driver,
    }
    keep = False
    try:
        with _connected(options):
            yield folder
    except Exception:
        keep = True
        raise
    finally:
        if keep:
            logging.getLogger(__name__).warning("the logs of Ray's processes are in %s", folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _connected(options: dict[str, Any]) -> Iterator[None]:
    import ray

    others = {child.pid for child in _children()}
    handlers: Handlers = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    try:
        _init(options, others)
        _restore(handlers)  # ray.init puts a SIGTERM handler of its own that would skip the checkpoint
        yield
    finally:
        ours = [child for child in _children() if child.pid not in others]
        with _signals_ignored():
            ray.shutdown()
            _end(ours)


def _init(options: dict[str, Any], others: set[int]) -> None:
    """ray.init, once more where the machine was too busy: Ray gives its own processes 30 s, and not a second more."""
    import ray

    for attempt in range(_ATTEMPTS):
        try:
            ray.init(**options, logging_level=logging.WARNING)
            return
        except Exception as error:
            if attempt + 1 == _ATTEMPTS or "timed out" not in str(error):
                raise
            logging.getLogger(__name__).warning("Ray did not start in time; trying again")
            ray.shutdown()
            _end([child for child in _children() if child.pid not in others])


def _private_token() -> None:
    """Give a private Ray a token that lives in the environment only; what the user has set stands.

    The token stays for the life of this process: Ray reads it once and keeps it.
    """
    if not any(os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # ray.init sets the mode when it sees none
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)


def _sweep() -> None:
    """Remove folders of runs that were killed outright. The name says whose they are."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _object_store_bytes() -> int:
    """1 GB, or half of what shared memory has left where that is less (containers often have 64 MB)."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return _OBJECT_STORE_BYTES
    return max(80 << 20, min(_OBJECT_STORE_BYTES, free // 2))


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _end(processes: list[psutil.Process]) -> None:
    """Wait for Ray's processes to go, and end those that do not. A recycled pid is never hit (psutil checks)."""
    _, alive = psutil.wait_procs(processes, timeout=_GRACE_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_GRACE_S)


def _restore(handlers: Handlers) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """An impatient second Ctrl-C must not leave half a cluster behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: Handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        _restore(handlers)
