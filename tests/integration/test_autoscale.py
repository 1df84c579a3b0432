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
RUN = Path(__file__).with_name("autoscale_run.py")
ROOT = PROGRAM.parents[2]


def test_nodes_and_workers_go_from_one_to_three_under_load_and_back_and_nothing_is_left() -> None:
    with fake_cluster(least=1, most=3) as cluster:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), cluster.address],
            env=os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)},
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
    changes = [event for event in result["events"] if " -> " in event]
    grown = [event for event in changes if " units queued and " in event]
    shrunk = [event for event in changes if " workers had work in the last 6 s" in event]
    assert changes == grown + shrunk  # in this order, and nothing else
    assert grown[0].startswith("rollout pool 1 -> ")
    assert " -> 3: waited " in grown[-1]
    assert " -> 1: " in shrunk[-1]


@pytest.mark.vllm
def test_a_run_starts_on_one_node_grows_to_three_in_its_midst_and_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The nodes' processes look for the drills' reward too, and inherit this.
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'benchmarks'}")
    with fake_cluster(least=1, most=3, idle_s=8) as cluster:
        done = subprocess.run(
            [sys.executable, str(RUN), cluster.address, str(tmp_path)],
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    assert cluster.processes() == []
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["updates"] == list(range(1, 15))
    sizes = [(nodes, workers) for _, nodes, workers in result["moments"]]
    assert sizes[0] == sizes[-1] == (1, 1)
    assert max(nodes for nodes, _ in sizes) == 3
    assert max(workers for _, workers in sizes) > 2
