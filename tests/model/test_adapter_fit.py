"""Adapters of other models are refused by layer and size, whatever prefix their names have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from boxmed_ray.config import ConfigError
from boxmed_ray.model.adapter_fit import check_adapter

LANGUAGE = "base_model.model.model.language_model.layers.1.mlp.up_proj"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    weights = {"model.layers.1.mlp.up_proj.weight": (6, 4), "visual.blocks.0.attn.qkv.weight": (9, 3), "norm": (4,)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in weights.items()}, folder / "model.safetensors")
    return folder


def adapter(folder: Path, matrices: dict[str, tuple[int, ...]]) -> Path:
    folder.mkdir()
    save_file(
        {name: np.zeros(shape, np.float32) for name, shape in matrices.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def test_an_adapter_of_this_model_passes(model: Path, tmp_path: Path) -> None:
    matrices = {f"{LANGUAGE}.lora_A.weight": (2, 4), f"{LANGUAGE}.lora_B.weight": (6, 2)}
    check_adapter(adapter(tmp_path / "a", matrices), model)
    vision = {"base_model.model.model.visual.blocks.0.attn.qkv.lora_B.weight": (9, 2)}
    check_adapter(adapter(tmp_path / "b", vision), model)
    (model / "model.safetensors").unlink()
    check_adapter(tmp_path / "a", model)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        (f"{LANGUAGE}.lora_A.weight", (2, 5), r"lora_A of layers\.1\.mlp\.up_proj is \[2, 5\].*takes 4 and gives 6"),
        (f"{LANGUAGE}.lora_B.weight", (7, 2), r"lora_B .*takes 4 and gives 6"),
        (
            f"{LANGUAGE}.lora_A.weight".replace("layers.1", "layers.2"),
            (2, 4),
            r"layers\.2\.mlp\.up_proj, which",
        ),
        ("something", (1,), r"no adapter_model\.safetensors with LoRA"),
    ],
)
def test_one_of_another_model_is_refused(
    model: Path, tmp_path: Path, name: str, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_adapter(adapter(tmp_path / "a", {name: shape}), model)


def test_a_damaged_file_is_named(model: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", {f"{LANGUAGE}.lora_A.weight": (2, 4)})
    (folder / "adapter_model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors: not readable"):
        check_adapter(folder, model)
