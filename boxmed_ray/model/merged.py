"""A model's tensors with LoRA merged into them, under the names that the backbone has without LoRA.

What lives here: which parameters make up which tensor, and its value: W + alpha / r * B A (arXiv 2106.09685). What
does not: gathering parameters that ZeRO-3 has split (engine_state.py, actors/weights.py).

One tensor is merged at a time: a merged copy of the model never exists, and the model itself is not touched, so that
training goes on with unrounded matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from boxmed_ray.model.trainable import is_lora

_BASE: Final = ".base_layer."
_ADAPTER: Final = "default"
"""PEFT's name of the only adapter."""


@dataclass(frozen=True, slots=True)
class MergedTensor:
    """A tensor of the backbone and the LoRA matrices on it.

    Attributes:
        name: as the backbone has it without LoRA.
        base: [out, in] where there is LoRA, else of any shape.
        lora: A [r, in], B [out, r] and the scale of B A; None where there is none.
    """

    name: str
    base: nn.Parameter
    lora: tuple[nn.Parameter, nn.Parameter, float] | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that must be whole while ``value`` is called."""
        return [self.base] if self.lora is None else [self.base, *self.lora[:2]]

    def value(self) -> torch.Tensor:
        """The tensor, without gradient, in the type of ``base``; computed in float32 and rounded once.

        Without LoRA it is the parameter's own memory.
        """
        base = self.base.detach()
        if self.lora is None:
            return base
        a, b, scale = self.lora
        return torch.addmm(base.float(), b.detach().float(), a.detach().float(), alpha=scale).to(base.dtype)


def merged_tensors(module: nn.Module) -> Iterator[MergedTensor]:
    """Every tensor of the model in the order of its parameters, tied ones once; reads no values."""
    for name, parameter in module.named_parameters():
        if is_lora(name):
            continue
        owner, wrapped, own = name.rpartition(_BASE)
        if not wrapped:
            yield MergedTensor(name, parameter)
            continue
        layer: Any = module.get_submodule(owner)
        lora = None
        if own == "weight":
            lora = (layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight, float(layer.scaling[_ADAPTER]))
        yield MergedTensor(f"{owner}.{own}", parameter, lora)
