"""What a stage trains: whole parts of the backbone, LoRA on parts, or both.

What lives here: applying a TrainableConfig to a model, and telling whether LoRA alone trains. What does not:
which parameter is of which part, adding LoRA (policy.py); the optimiser, which takes what requires gradients
(engine.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel

from boxmed_ray.config import TrainableConfig, TrainedPart
from boxmed_ray.model.policy import add_lora, part_of

if TYPE_CHECKING:
    from peft import PeftModel


def select_trainable(model: PreTrainedModel, config: TrainableConfig) -> PeftModel | None:
    """Let exactly what ``config`` names require gradients, in place; returns PEFT's handle where there is LoRA.

    A part in ``config.lora.parts`` is frozen and gets LoRA; any other trains whole if its switch is on. A head that
    is tied to the embeddings goes with them, as both are of the language model. Parameters keep their names, except
    that a layer with LoRA holds its own ones under ``base_layer``.

    Raises:
        ValueError: the model is not made of a vision tower, a projector and a language model as Qwen's are.
    """
    found = {part_of(name) for name, _ in model.named_parameters()}
    if missing := {"language_model", "projector", "vision_tower"} - found:
        raise ValueError(
            f"{type(model).__name__} has no {' and no '.join(sorted(missing))}; "
            "use Qwen2-VL, Qwen2.5-VL or Qwen3-VL as the backbone"
        )
    lora = config.lora
    whole: dict[TrainedPart, bool] = {
        "language_model": config.language_model,
        "projector": config.projector,
        "vision_tower": config.vision_tower,
    }
    adapted = None
    if lora is not None:
        adapted = add_lora(model, lora.rank, lora.alpha, lora.dropout, lora.parts)
        whole |= dict.fromkeys(lora.parts, False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_lora(name) or whole[part_of(name)])
    return adapted


def is_lora(name: str) -> bool:
    """Whether a parameter is a LoRA matrix."""
    return ".lora_" in name


def only_lora_trains(model: nn.Module) -> bool:
    """Whether the model without its LoRA is what it was at the start, however long it trains."""
    return all(is_lora(name) for name, parameter in model.named_parameters() if parameter.requires_grad)
