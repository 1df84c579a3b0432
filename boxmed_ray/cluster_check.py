"""What a Ray cluster lacks for a run, found out by a job on it: `boxmed doctor --remote`, and before `boxmed submit`.

What lives here: what is wanted, looking on every node, judging what was found. What does not: this machine (doctor.py),
sending the job (submit.py).

Run as ``python -m boxmed_ray.cluster_check JSON`` it prints its checks as the last line.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from boxmed_ray.config import RunConfig, is_uri
from boxmed_ray.doctor import PACKAGES, Check

_SHM_NEEDED = 1e9


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run needs of every node, and of all together.

    Attributes:
        packages: name → version, as they are where the run is submitted.
        python: its version, major and minor.
        gpus: of all nodes.
        paths: that every node must see.
        secrets: variables that must be set.
        runs_dir: where run folders go; empty for what the cluster says itself.
    """

    packages: dict[str, str] = field(default_factory=dict)
    python: str = ""
    gpus: float = 0.0
    paths: Sequence[str] = ()
    secrets: Sequence[str] = ()
    runs_dir: str = ""

    def as_json(self) -> str:
        """For the command line of the job."""
        return json.dumps(asdict(self))


def wanted(config: RunConfig | None, secrets: Sequence[str] = (), runs_dir: str | None = None) -> Wanted:
    """What ``config`` needs, with the versions of here; without a config what any run does."""
    paths: list[str] = []
    gpus = 0.0
    if config is not None:
        gpus = config.resources.gpus if config.resources.on_gpus else 0.0
        named = [config.data.root, *config.scorers.paths.values()]
        paths = [str(path) for path in named if path is not None]
        if Path(config.model.name_or_path).is_absolute():  # else tiny, or a name on the hub
            paths.append(config.model.name_or_path)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return Wanted(versions, _python(), gpus, tuple(paths), tuple(secrets), runs_dir or "")


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def look(wanted: Wanted, mark: str) -> dict[str, Any]:
    """What there is on the node where this runs; ``mark`` is a file of the driver's in the folder of runs."""
    versions: dict[str, str | None] = {}
    for name in wanted.packages:
        try:
            versions[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "host": platform.node(),
        "python": _python(),
        "versions": versions,
        "vllm": importlib.util.find_spec("vllm") is not None,
        "shm": shutil.disk_usage("/dev/shm").free,
        "paths": [path for path in wanted.paths if not Path(path).exists()],
        "secrets": [name for name in wanted.secrets if not os.environ.get(name)],
        "mark": not mark or Path(mark).exists(),
    }


def judge(nodes: Sequence[dict[str, Any]], wanted: Wanted, *, gpus: float, grows: bool, runs_dir: str) -> list[Check]:
    """One check for each thing that is wanted.

    Args:
        nodes: of ``look``, one a node.
        wanted: of the run.
        gpus: of the cluster now.
        grows: whether an autoscaler adds nodes.
        runs_dir: where run folders go there.
    """
    checks = [Check("nodes", "ok", ", ".join(node["host"] for node in nodes))]
    checks.append(_each(nodes, "python", _unlike(wanted), f"use Python {wanted.python} and these versions everywhere"))
    checks.append(
        _each(nodes, "vllm", lambda n: [] if n["vllm"] else ["not installed"], "install the cpu or gpu extra")
    )
    small = "docker run --shm-size=4g, or a memory volume at /dev/shm"
    checks.append(_each(nodes, "/dev/shm", lambda n: [f"{n['shm'] / 1e9:.1f} GB"] * (n["shm"] < _SHM_NEEDED), small))
    if wanted.paths:
        remedy = "mount the same storage on every node, and name it as they see it: --set data.root=/DIR"
        checks.append(_each(nodes, "paths", lambda n: n["paths"], remedy))
    if wanted.secrets:
        checks.append(_each(nodes, "secrets", lambda n: n["secrets"], "set these variables where the nodes start"))
    if not is_uri(runs_dir):
        remedy = "name storage that all nodes see: --runs-dir, or BOXMED_RUNS_DIR on the cluster"
        unseen = _each(nodes, "runs", lambda n: [] if n["mark"] else [f"{runs_dir} is another folder"], remedy)
        checks.append(unseen if unseen.state == "fail" else Check("runs", "ok", runs_dir))
    found = f"{gpus:g} of {wanted.gpus:g}"
    if gpus >= wanted.gpus:
        checks.append(Check("gpus", "ok", found))
    elif grows:
        checks.append(Check("gpus", "warn", f"{found} now", "the autoscaler has to add nodes, if its limits allow it"))
    else:
        checks.append(Check("gpus", "fail", found, "add nodes, or place the run otherwise: boxmed plan --gpus N"))
    return checks


def _unlike(wanted: Wanted) -> Callable[[dict[str, Any]], list[str]]:
    def unlike(node: dict[str, Any]) -> list[str]:
        found = [] if node["python"] == wanted.python else [f"Python {node['python']}, here {wanted.python}"]
        for name, version in wanted.packages.items():
            there = node["versions"][name]
            if there != version.split("+")[0]:
                found.append(f"{name} {there or 'missing'}, here {version}")
        return found

    return unlike


def _each(
    nodes: Sequence[dict[str, Any]], name: str, problems: Callable[[dict[str, Any]], list[str]], remedy: str
) -> Check:
    """Fails where any node has a problem, and says which has which."""
    told = [f"{node['host']}: {', '.join(found)}" for node in nodes if (found := problems(node))]
    return Check(name, "fail", "; ".join(told), remedy) if told else Check(name, "ok", "on every node")


def examine(wanted: Wanted) -> list[Check]:
    """Look at every node of the cluster that this job runs on."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(log_to_driver=False, logging_level="ERROR")
    runs_dir = wanted.runs_dir or os.environ.get("BOXMED_RUNS_DIR", "")
    with _marked(runs_dir) as mark:
        task = ray.remote(num_cpus=0, max_retries=0)(look)
        ids = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        asked = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(each, soft=False)).remote(wanted, mark)
            for each in ids
        ]
        nodes = ray.get(asked, timeout=300)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    return judge(nodes, wanted, gpus=gpus, grows=_grows(), runs_dir=runs_dir)


@contextmanager
def _marked(runs_dir: str) -> Iterator[str]:
    """A file in the folder of runs while other nodes look for it; the empty string where that is a URI."""
    if not runs_dir or is_uri(runs_dir):
        yield ""
        return
    path = Path(runs_dir, f".seen-{uuid.uuid4().hex}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


def _grows() -> bool:
    """Whether nodes can be added. Where nobody can, Ray's monitor names each node's type after the node itself."""
    from ray.experimental.internal_kv import _internal_kv_get

    status = _internal_kv_get(b"__autoscaling_status")
    return bool(status) and not re.search(rb'"node_[0-9a-f]{16,}', status)


def read_checks(log: str) -> list[Check]:
    """The checks of a job's log.

    Raises:
        ValueError: the job ended without any.
    """
    for line in reversed(log.splitlines()):
        if line.startswith("["):
            return [Check(**each) for each in json.loads(line)]
    raise ValueError(log.strip()[-1500:] or "no output")


def problems(checks: Sequence[Check]) -> Iterator[str]:
    """What must be put right, in words."""
    return (f"{check.name}: {check.found}; {check.remedy}" for check in checks if check.state == "fail")


if __name__ == "__main__":
    print(json.dumps([asdict(check) for check in examine(Wanted(**json.loads(sys.argv[1])))]))
