"""Does a LoRA adapter belong to a model? By the shapes in the headers of their files, before anything is loaded.

What lives here: that question, for adapters that a user names. What does not: loading either (vLLM does, and its engine
dies of an adapter that does not fit).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from boxmed_ray.config import ConfigError

_LAYER = re.compile(r"((?:layers|blocks)\.\d+\..+?)\.(?:lora_([AB])\.)?weight$")
"""From its number on: what stands before it changes with the version that wrote a file."""


def check_adapter(adapter: Path, model: Path) -> None:
    """Refuse an adapter whose matrices are not of the model's layers.

    Args:
        adapter: PEFT folder.
        model: folder of the backbone; one without safetensors files is taken at its word.

    Raises:
        ConfigError: a layer that the model lacks or has in another size, or the adapter has no weights.
    """
    layers = {layer: shape for layer, _, shape in _shapes(model)}
    matrices = list(_shapes(adapter))
    if not matrices and not (adapter / "adapter_model.bin").is_file():
        raise ConfigError(f"--adapter {adapter}: no adapter_model.safetensors with LoRA matrices; give a PEFT folder")
    for layer, side, shape in matrices if layers else ():
        if layer not in layers:
            raise ConfigError(f"--adapter {adapter}: is for {layer}, which {model} lacks; give one of this model")
        into, out = layers[layer][-1], layers[layer][0]
        if (side == "A" and shape[-1] != into) or (side == "B" and shape[0] != out):
            raise ConfigError(
                f"--adapter {adapter}: its lora_{side} of {layer} is {shape}, but that of {model} takes {into} and "
                f"gives {out}; give an adapter of this model"
            )


def _shapes(folder: Path) -> Iterator[tuple[str, str | None, list[int]]]:
    """(layer, A or B or None, shape) of every weight of a numbered layer."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "numpy") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    if match := _LAYER.search(name):
                        yield match[1], match[2], file.get_slice(name).get_shape()
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: not readable as safetensors ({error}); copy it again") from error
