"""Shared fixtures, the environment all tests run in, and their order.

What lives here: what more than one folder of tests needs. The environment is set before anything
imports Ray, vLLM or torch, so that plain `pytest` behaves as `make test` does.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxmed_ray.ray_local import quiet_environment

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["RAY_AUTH_MODE"] = "disabled"  # the session's cluster is used by clients that know no token
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("BOXMED_RUNS_DIR", None)
quiet_environment()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts a command in the background lets it ignore SIGINT, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_COSTS = ("slow", "vllm", "ray")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cheap tests first: what breaks quickly is seen quickly, and no engine is up beside the Ray tests."""

    def cost(item: pytest.Item) -> int:
        ranks = [len(_COSTS) - rank for rank, mark in enumerate(_COSTS) if item.get_closest_marker(mark)]
        return max(ranks, default=0)

    items.sort(key=cost)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data sets are not here: {SHARED_DATA} is missing")
    return SHARED_DATA


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for all tests of the session that need one: two CPUs, no dashboard, no token."""
    import ray

    folder = tempfile.mkdtemp(prefix="bx-ray-")  # socket paths may have 107 characters: tmp_path is too long
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=512 << 20,
        log_to_driver=False,
        _temp_dir=folder,
    )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
