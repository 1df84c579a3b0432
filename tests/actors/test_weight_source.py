"""Where pushed weights come from: a plain module, and one whose parameters ZeRO-3 has split over two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_zero_3_parameters_are_gathered_whole_and_a_failing_rank_0_hangs_nobody(tmp_path: Path) -> None:
    program = Path(__file__).with_name("zero3_program.py")
    root = str(Path(__file__).parents[2])
    ranks = [
        subprocess.Popen(
            [sys.executable, str(program), str(rank), str(tmp_path)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "LOCAL_RANK": "0", "RANK": str(rank),
                 "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29519"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, output in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, output[-3000:]
    assert {path.name for path in tmp_path.iterdir()} >= {"done0", "done1"}
