"""The policy: load a backbone and its processor from a folder, and know which ids it may never sample.

What lives here: loading, saving, freezing, LoRA. What does not: building the tiny backbone (tiny.py),
encoding inputs (inputs.py), log-probabilities (logprobs.py, shared_prefix.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

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


def add_lora(model: PreTrainedModel, rank: int, alpha: int, dropout: float = 0.0) -> nn.Module:
    """Freeze the backbone and add LoRA (arXiv 2106.09685, PEFT) to the language model's linear layers.

    The vision tower and projector get none: vLLM serves adapters of the language layers only.
    """
    from peft import LoraConfig, get_peft_model

    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in LORA_TARGETS and "visual" not in name
    ]
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    )


def digest(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over names, shapes and bytes of every parameter, sorted by name."""
    sha = hashlib.sha256()
    for name, tensor in sorted(parameters, key=lambda item: item[0]):
        data = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {tuple(data.shape)} {data.dtype}".encode())
        sha.update(data.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
