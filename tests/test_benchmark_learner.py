"""The learner benchmark prints what machines read, and its sides agree; its speed is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "learner.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_learner_prints_the_fixed_keys_and_all_sides_have_the_same_gradient() -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--shape", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= {"name", "versions", "threads", "repeats", "peer", "shapes"}
    [shape] = result["shapes"]
    keys = {"prompt", "response", "n", "ratio_replicated", "ratio_trl", "memory_ratio", "grad_rel_error"}
    assert set(shape) >= {*keys, "flop_limit_ratio"}
    assert shape["grad_rel_error"] < 1e-5
    assert shape["grad_rel_error_trl"] < 1e-5
    assert shape["flop_limit_ratio"] > 1
