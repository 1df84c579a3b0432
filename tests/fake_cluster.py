"""A Ray cluster on this machine whose autoscaler adds and removes nodes; the nodes are processes.

What lives here: starting such a head beside whatever other Ray runs here, and ending every process of it. What does
not: what runs on it.

Ray's own ``AutoscalingCluster`` reads a file that Ray's package lacks, and ends every Ray on the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_MARK = "BOXMED_FAKE_CLUSTER"
_HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
_COMMANDS = [
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"),
]
"""Lists that Ray's reader asks for, though nothing is installed on a fake node."""
_START_S = 120.0
_ATTEMPTS = 3
_GRACE_S = 5.0
_STORE_BYTES = 80 << 20


@dataclass(frozen=True)
class FakeCluster:
    """A running cluster.

    Attributes:
        address: for ``ray.init``, which must not send a token: ``RAY_AUTH_MODE=disabled``.
        folder: of its logs.
    """

    address: str
    folder: str

    def processes(self) -> list[psutil.Process]:
        """All of the head and its nodes; those that have lost their parents too, by the mark in their environment."""
        return _processes(self.folder)


@contextlib.contextmanager
def fake_cluster(*, least: int, most: int, idle_s: float = 6.0) -> Iterator[FakeCluster]:
    """A head without CPUs, and from ``least`` to ``most`` nodes of one CPU each, under Ray's autoscaler v2.

    Args:
        least, most: nodes beside the head.
        idle_s: after which a node without work is removed.

    Yields:
        Where it is. Every process of it ends with the block.
    """
    folder = Path(tempfile.mkdtemp(prefix="bx-fake-"))  # socket paths may have 107 characters: tmp_path is too long
    try:
        yield FakeCluster(_start(folder, least, most, idle_s), str(folder))
    finally:
        _end(str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, least: int, most: int, idle_s: float) -> str:
    """The head's address, once it is up; again where the machine was too busy for the 30 s that Ray gives itself."""
    for attempt in range(1, _ATTEMPTS + 1):
        port, client_port = _free_ports(2)
        address, log = f"{_own_ip()}:{port}", folder / f"head-{attempt}.log"
        config = folder / "cluster.json"
        config.write_text(json.dumps(_cluster(address, least, most, idle_s)))
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
            f"--temp-dir={folder}", f"--autoscaling-config={config}", "--num-cpus=0", "--include-dashboard=false",
            f"--object-store-memory={_STORE_BYTES}", f"--ray-client-server-port={client_port}",
            "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0",
        ]  # fmt: skip
        with log.open("wb") as file:
            head = subprocess.Popen(command, env=_environment(folder), stdout=file, stderr=subprocess.STDOUT)
        if _is_up(head, log):
            return address
        _end(str(folder))
    raise RuntimeError(f"the head did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _cluster(address: str, least: int, most: int, idle_s: float) -> dict[str, Any]:
    """What ``ray start`` reads. A fake node is told the head's address, because it would guess the default port."""
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "upscaling_speed": 100,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "head_node_id": _HEAD,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        **{name: [] for name in _COMMANDS},
        "file_mounts": {},
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": 1, "object_store_memory": _STORE_BYTES},
                "node_config": {},
                "min_workers": least,
                "max_workers": most,
            },
        },
    }


def _environment(folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited | {
        _MARK: str(folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": _HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }


def _is_up(head: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until it is, or is not going to be."""
    end = time.monotonic() + _START_S
    while head.poll() is None and time.monotonic() < end:
        if b"Ray runtime started" in log.read_bytes():
            return True
        time.sleep(0.2)
    return False


def _processes(folder: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(_MARK) == folder:
                found.append(process)
    return found


def _end(folder: str) -> None:
    # Killed, not asked: a raylet that is asked ends its children first, and the head's monitor would add nodes anew.
    end = time.monotonic() + 6 * _GRACE_S
    while alive := _processes(folder):
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=_GRACE_S)
        if time.monotonic() > end:
            raise RuntimeError(f"still there: {[process.pid for process in alive]}")


def _own_ip() -> str:
    from ray._private.services import get_node_ip_address

    return str(get_node_ip_address())


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
