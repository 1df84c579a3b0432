"""A pool that grows makes Ray's autoscaler add nodes, and one that shrinks gives them back: on nodes that are fake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_cluster import fake_cluster

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
PROGRAM = Path(__file__).with_name("autoscale_program.py")


def test_nodes_and_workers_go_from_one_to_three_under_load_and_back_and_nothing_is_left() -> None:
    with fake_cluster(least=1, most=3) as cluster:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), cluster.address],
            env=os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(PROGRAM.parents[2])},
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert cluster.processes() != []
    assert cluster.processes() == []
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["places"]) == 3  # nodes that worked
    sizes = [(nodes, workers) for _, nodes, workers in result["moments"]]
    assert sizes[0] == sizes[-1] == (1, 1)
    assert (3, 3) in sizes
    assert all(workers <= nodes <= 3 for nodes, workers in sizes)
    grown, *shrunk = [event for event in result["events"] if " -> " in event]
    assert grown.startswith("rollout pool 1 -> 3: waited ")
    assert grown.endswith("units queued and 1 workers full")
    assert all("workers had work in the last 6 s" in event for event in shrunk)
    assert " -> 1: " in shrunk[-1]
