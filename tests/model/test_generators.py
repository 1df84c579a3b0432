"""Random generators go through a file and go on where they were."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from boxmed_ray.model.generators import restore_rng, rng_state


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    random.seed(3)
    np.random.seed(4)
    torch.manual_seed(5)
    # Odd draws leave a cached normal deviate in two of the three.
    random.gauss(0, 1), np.random.normal(), torch.rand(3)
    save_file(rng_state(), tmp_path / "rng.safetensors")

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.normal(), np.random.rand(), *torch.randn(3).tolist()]

    expected = draw()
    draw()
    restore_rng(load_file(tmp_path / "rng.safetensors"))
    assert draw() == expected
