"""The policy: load a backbone and its processor from a folder, and know which ids it may never sample.

What lives here: loading, saving, the parts of a backbone, LoRA on them. What does not: what a stage trains
(trainable.py), merging LoRA (merged.py), building the tiny backbone (tiny.py), encoding inputs (inputs.py),
log-probabilities (logprobs.py, shared_prefix.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from boxmed_ray.config import TrainedPart

if TYPE_CHECKING:
    from peft import PeftModel

LANGUAGE_MODEL: tuple[TrainedPart, ...] = ("language_model",)

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of the language model; vLLM serves adapters on these."""

_VISION_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def load_policy(folder: Path | str, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> PreTrainedModel:
    """Load the image-text-to-text model of ``folder``, in evaluation mode.

    Raises:
        OSError: (transformers) where the folder holds no model.
    """
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return model.eval()


def load_processor(folder: Path | str) -> ProcessorMixin:
    """Load tokenizer and image processor of ``folder`` as one processor."""
    return AutoProcessor.from_pretrained(folder)


def vision_token_ids(tokenizer: Any) -> list[int]:
    """Ids that stand for pixels. Never sampled, and masked in the learner likewise.

    A sampled placeholder makes the next forward pass fail on a token–feature mismatch, and a ban on
    one side only shifts every log-probability (docs/learner.md).
    """
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary[token] for token in _VISION_TOKENS if token in vocabulary)


def save_policy(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Write a folder that transformers and vLLM load as it is."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def part_of(name: str) -> TrainedPart:
    """The part that a parameter or module of a Qwen backbone belongs to, by its name.

    Qwen3-VL's deepstack mergers are of the projector as its merger is. A head that is tied to the embeddings is the
    same parameter, and both are of the language model.
    """
    _, visual, inside = name.partition("visual.")
    if not visual:
        return "language_model"
    return "projector" if inside.startswith(("merger.", "deepstack_merger_list.")) else "vision_tower"


def add_lora(
    model: PreTrainedModel,
    rank: int,
    alpha: int,
    dropout: float = 0.0,
    parts: Collection[TrainedPart] = LANGUAGE_MODEL,
) -> PeftModel:
    """Freeze the backbone and add LoRA (arXiv 2106.09685, PEFT) to the linear layers of ``parts``.

    The matrices go into the backbone's own layers; what is returned is PEFT's handle on them, for disabling and
    saving. The head gets none, as it may be the embedding. vLLM serves adapters of the language model only;
    LoRA on other parts has to be merged for it (merged.py).
    """
    from peft import LoraConfig, get_peft_model

    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and part_of(name) in parts
        and (part_of(name) != "language_model" or name.rpartition(".")[2] in LORA_TARGETS)
    ]
    adapted: PeftModel = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    )
    return adapted


def adapter_config(adapted: PeftModel) -> dict[str, Any]:
    """What PEFT writes beside an adapter's tensors, as far as they are to be applied: JSON."""
    lora: Any = adapted.peft_config["default"]
    return {
        "peft_type": "LORA",
        "task_type": str(lora.task_type),
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "target_modules": sorted(lora.target_modules),
        "bias": "none",
    }


def recompute_layers(model: PreTrainedModel) -> None:
    """Gradient checkpointing (arXiv 1604.06174) of every layer of vision tower and language model.

    Not the reentrant kind, which drops the gradient of LoRA behind a frozen embedding, and that of kept keys.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def digest(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over names, shapes and bytes of every parameter, sorted by name."""
    sha = hashlib.sha256()
    for name, tensor in sorted(parameters, key=lambda item: item[0]):
        data = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {tuple(data.shape)} {data.dtype}".encode())
        sha.update(data.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
