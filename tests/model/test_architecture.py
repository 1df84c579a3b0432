"""Backbones at their real size on the meta device, against the counts that are published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boxmed_ray.config import ConfigError, LoraConfig, ModelConfig, TrainableConfig
from boxmed_ray.model.architecture import architecture, backbone_config, describe, published_names, trained_parameters

LORA = TrainableConfig(language_model=False, projector=False, vision_tower=False, lora=LoraConfig(rank=8))


def test_counts_are_those_of_the_published_models() -> None:
    two = describe("Qwen2-VL-2B", backbone_config("Qwen/Qwen2-VL-2B-Instruct"))
    eight = describe("Qwen3-VL-8B", backbone_config("Qwen/Qwen3-VL-8B-Instruct"))
    assert two.total == 2_208_985_600  # the size that the hub shows: 2.21 B
    assert eight.total == 8_767_123_696  # 8.77 B
    assert (two.kv_elements * 2, eight.kv_elements * 2) == (28 * 1024, 144 * 1024)


def test_language_model_is_what_its_sizes_multiply_to() -> None:
    model = describe("Qwen2-VL-2B", backbone_config("Qwen2-VL-2B-Instruct"))
    h, i, kv = 1536, 8960, 2 * 128
    layer = h * (h + 2 * kv) + (h + 2 * kv) + h * h + 3 * h * i + 2 * h  # q, k, v with biases; o; MLP; two norms
    assert model.parameters["language_model"] == 28 * layer + h + 151936 * h  # final norm, tied embeddings


def test_lora_is_counted_by_its_ranks() -> None:
    config = backbone_config("Qwen2-VL-2B-Instruct")
    h, i, kv = 1536, 8960, 256
    each = (h + h) + 2 * (h + kv) + (h + h) + 2 * (h + i) + (i + h)
    assert trained_parameters(config, LORA) == 28 * 8 * each
    assert trained_parameters(config, TrainableConfig()) == 2_208_985_600


def test_image_tokens_are_squares_of_the_merged_patch() -> None:
    two, eight = (describe(name, backbone_config(name)) for name in published_names())
    assert two.image_tokens(700) == 25 * 25
    assert eight.image_tokens(672) == 21 * 21


def test_a_folder_is_read_by_its_config(tmp_path: Path) -> None:
    config = backbone_config("Qwen2-VL-2B-Instruct").to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert describe("here", backbone_config(str(tmp_path))).total == 2_208_985_600


def test_an_unknown_backbone_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="Qwen3-VL-8B-Instruct"):
        backbone_config("nobody/nothing")


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_tiny_backbones_have_sizes_too(family: str) -> None:
    model = architecture(ModelConfig.model_validate({"family": family, "hidden_size": 64, "layers": 2}), 112)
    assert model.layers == 2
    assert 100_000 < model.total < 2_000_000
