"""What a run was made with: code, command, data, packages, machine. One line of provenance.jsonl for every start.

What lives here: finding it out. What does not: the configuration (config.yaml), the figures (results.py).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from boxmed_ray import __version__
from boxmed_ray.doctor import gpu_names

FILE = "provenance.jsonl"
COMMIT = "BOXMED_COMMIT"
"""Variable by which `boxmed submit` tells the commit of the folder that it sends, which has no .git."""

_PROJECT = Path(__file__).resolve().parent.parent


def commit(project: Path = _PROJECT) -> str | None:
    """The commit of the code in ``project``, with ``+changes`` if files differ from it; None where git does not know.

    Code that lies in somebody else's repository without belonging to it (an environment's site-packages) has none.
    """
    told = os.environ.get(COMMIT)
    if told:
        return told
    try:
        _git(project, "ls-files", "--error-unmatch", "boxmed_ray")
        head = _git(project, "rev-parse", "HEAD")
        return head + ("+changes" if _git(project, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(project: Path, *arguments: str) -> str:
    command = ["git", "-C", str(project), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def packages() -> dict[str, str]:
    """Every installed package and its version."""
    found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def hardware() -> dict[str, Any]:
    """Of the machine of the driver."""
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": gpu_names(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def record(folder: Path, data_hash: str, nodes: list[dict[str, Any]] | None = None) -> None:
    """Append the line of this start.

    Args:
        folder: of the run.
        data_hash: of the data set.
        nodes: of the Ray cluster, where there is one.
    """
    line = {
        "time": time.time(),
        "boxmed": __version__,
        "commit": commit(),
        "command": sys.argv,
        "python": platform.python_version(),
        "config": hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest(),
        "data": data_hash,
        "hardware": hardware(),
        "nodes": nodes,
        "packages": packages(),
    }
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def cluster_nodes() -> list[dict[str, Any]]:
    """Host and resources of every node that is up; Ray is initialised."""
    import ray

    return [
        {"host": node["NodeManagerHostname"], "resources": node["Resources"]} for node in ray.nodes() if node["Alive"]
    ]
