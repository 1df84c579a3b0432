"""The real architecture of a backbone without its weights: sizes and parameter counts, from the meta device.

What lives here: finding a backbone's published configuration, counting what a stage trains, and shrinking it. What does
not: how much memory that takes (placement/memory.py), loading weights (policy.py).
"""

from __future__ import annotations

import importlib.resources
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText

from boxmed_ray.config import ConfigError, ModelConfig, TrainableConfig
from boxmed_ray.model.policy import part_of
from boxmed_ray.model.trainable import select_trainable

_PUBLISHED = importlib.resources.files("boxmed_ray") / "architectures"


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a vision-language model, as far as memory and placement depend on them.

    Attributes:
        name: of the backbone.
        parameters: of each part, tied embeddings once.
        layers, hidden, intermediate, heads, kv_heads, head_size, vocabulary: of the language model.
        vision_layers, vision_hidden, vision_intermediate: of the vision tower.
        pixels: side in pixels of the square that one image token stands for.
        patches: vision patches that are merged into one image token.
    """

    name: str
    parameters: dict[str, int]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    vision_layers: int
    vision_hidden: int
    vision_intermediate: int
    pixels: int
    patches: int

    @property
    def total(self) -> int:
        """Parameters of the whole model."""
        return sum(self.parameters.values())

    @property
    def kv_elements(self) -> int:
        """Keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size

    def image_tokens(self, side: int) -> int:
        """Tokens of a square image of ``side`` pixels."""
        return round(side / self.pixels) ** 2


def published_names() -> list[str]:
    """Backbones whose configuration is shipped."""
    return sorted(entry.name.removesuffix(".json") for entry in _PUBLISHED.iterdir() if entry.name.endswith(".json"))


def backbone_config(name_or_path: str) -> Any:
    """The transformers configuration of a folder, or of a hub name: the copy that is shipped, else the hub's.

    Raises:
        ConfigError: neither a folder with config.json nor a name that is known here or to be had.
    """
    file = Path(name_or_path, "config.json")
    known = name_or_path.rpartition("/")[2]
    if file.is_file():
        values = json.loads(file.read_text())
    elif known in published_names():
        values = json.loads((_PUBLISHED / f"{known}.json").read_text())
    else:
        try:
            return AutoConfig.from_pretrained(name_or_path)
        except OSError as error:
            raise ConfigError(
                f"model.name_or_path = {name_or_path!r}: no folder with a config.json, no backbone whose sizes are "
                f"known ({', '.join(published_names())}), and not to be had from the hub; give the folder of the model"
            ) from error
    return CONFIG_MAPPING[values["model_type"]].from_dict(values)


def meta_model(config: Any) -> Any:
    """The model of ``config`` at its real size, without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def describe(name: str, config: Any) -> Architecture:
    """Sizes of the model of ``config``, its parameters counted on the meta device."""
    counts: Counter[str] = Counter()
    for parameter_name, parameter in meta_model(config).named_parameters():
        counts[part_of(parameter_name)] += parameter.numel()
    text, vision = config.text_config, config.vision_config
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    return Architecture(
        name=name,
        parameters=dict(counts),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
        vision_layers=vision.depth,
        vision_hidden=width,
        vision_intermediate=getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio),
        pixels=vision.patch_size * vision.spatial_merge_size,
        patches=vision.spatial_merge_size**2,
    )


def architecture(model: ModelConfig, image_size: int) -> Architecture:
    """Of the backbone that a run names; ``tiny`` at the largest vocabulary it may have."""
    return describe(model.name_or_path, configuration(model, image_size))


def configuration(model: ModelConfig, image_size: int) -> Any:
    """The transformers configuration of the backbone that a run names."""
    if model.name_or_path != "tiny":
        return backbone_config(model.name_or_path)
    from boxmed_ray.model.tiny import tiny_config

    return tiny_config(model, image_size, model.vocabulary, {})


def trained_parameters(config: Any, train: TrainableConfig) -> int:
    """Parameters that a stage trains, LoRA matrices among them, of the model of ``config`` at its real size."""
    model: nn.Module = meta_model(config)
    with torch.device("meta"):
        select_trainable(model, train)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
