"""The RadGraph benchmark prints what machines read; its speed is not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "radgraph.py"
KEYS = {"reports_per_s", "peer_reports_per_s", "ratio_peer", "ratio_peer_group", "encoder_share", "f1_max_abs_diff"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_radgraph_prints_the_fixed_keys_and_agrees_with_the_peer_where_there_is_one() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= {"name", "versions", "threads", "repeats", "peer", *KEYS}
    assert result["reports_per_s"] > 0
    assert 0 < result["encoder_share"] < 1
    assert result["entities_per_report"] > 5
    if "BOXMED_RADGRAPH_PEER" in os.environ:
        assert result["f1_max_abs_diff"] < 1e-9
        assert result["reports_that_differ"] == 0
    else:
        assert result["peer"] is None
        assert result["ratio_peer"] is None
