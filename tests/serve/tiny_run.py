"""A finished run folder made in seconds: a tiny Qwen2-VL that has learnt three answers by heart, and its adapter.

The backbone answers grounding prompts about any image the same way; the adapter writes one report. That
is enough to tell which of the two wrote what, and where every box must come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from boxmed_ray.config import RunConfig
from boxmed_ray.data.images import resize_square
from boxmed_ray.data.prompts import Task
from boxmed_ray.model.inputs import PromptEncoder, prompt_text
from boxmed_ray.model.policy import add_lora, load_policy, load_processor
from boxmed_ray.model.tiny import build_tiny

REPORT = "There is a 3.2 cm nodule in the left lung. No pneumothorax. The heart is enlarged."
WITHOUT_ADAPTER = "none"
"""What the backbone alone answers when a report is asked for."""
ANSWERS = {
    "There is a 3.2 cm nodule in the left lung.": (
        "<think>Lung Lesion -> left lung</think><answer>[500, 250, 750, 500]</answer>"
    ),
    "No pneumothorax.": "<think>none</think><answer>none</answer>",
    "The heart is enlarged.": "<think>Cardiomegaly -> cardiac silhouette</think><answer>[500, 250</answer>",
}
"""What the backbone has learnt to answer to each phrase; the third is malformed on purpose."""


def radiograph(width: int, height: int) -> Image.Image:
    """Something grey that is neither flat nor square."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((255 * (0.5 + 0.5 * np.sin(9 * across + 5 * down))).astype(np.uint8))


def tiny_config(name: str = "tiny") -> RunConfig:
    """Sizes at which learning three answers takes seconds."""
    return RunConfig.model_validate(
        {
            "name": name,
            "data": {"image_size": 56},
            "model": {
                "hidden_size": 128, "layers": 2, "vision_hidden_size": 32, "vision_layers": 1,
                "vocabulary": 400, "max_length": 256,
            },
            "svr": {"max_new_tokens": 64},
            "evaluate": {"report_tokens": 64},
            "resources": {"kv_cache_gb": 0.1, "max_sequences": 32},
        }
    )  # fmt: skip


def build_run(folder: Path) -> RunConfig:
    """Write a finished run folder."""
    config = tiny_config(folder.name)
    backbone, adapter = folder / "stages/svr/model", folder / "stages/adapter/adapter"
    backbone.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    build_tiny(config.model, config.data.image_size, [REPORT, *ANSWERS, *ANSWERS.values()], seed=0, folder=backbone)
    processor = load_processor(backbone)
    model: Any = load_policy(backbone)
    grounding = [(prompt_text(processor, Task.GROUND, phrase), answer) for phrase, answer in ANSWERS.items()]
    # The words of the report have to be known before so small a LoRA can put them in order for REPORT.
    others = [(prompt_text(processor, Task.CONCEPTS), REPORT), (prompt_text(processor, Task.REPORT), WITHOUT_ADAPTER)]
    _learn(model, processor, grounding + others, config.data.image_size, lr=3e-3)
    model.save_pretrained(backbone)
    lora: Any = add_lora(model, rank=8, alpha=16)
    _learn(lora, processor, [(prompt_text(processor, Task.REPORT), REPORT)], config.data.image_size, lr=3e-3)
    lora.save_pretrained(adapter)
    return config


def _learn(model: torch.nn.Module, processor: Any, pairs: Sequence[tuple[str, str]], side: int, lr: float) -> None:
    """Cross-entropy on the responses, all pairs in one batch, until every token is the likeliest by far."""
    torch.manual_seed(0)
    tokenizer = processor.tokenizer
    encoder, image = PromptEncoder(processor), resize_square(radiograph(300, 200), side)
    inputs = [encoder.encode("image", image, prompt) for prompt, _ in pairs]
    responses = [torch.tensor(tokenizer(answer + tokenizer.eos_token)["input_ids"]) for _, answer in pairs]
    rows = [torch.cat([one.input_ids, response]) for one, response in zip(inputs, responses, strict=True)]
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    answered = torch.zeros_like(ids, dtype=torch.bool)
    for row, (one, response) in enumerate(zip(inputs, responses, strict=True)):
        answered[row, len(one.input_ids) : len(one.input_ids) + len(response)] = True
    batch = {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])).long(),
        "mm_token_type_ids": (ids == processor.image_token_id).int(),
        "pixel_values": torch.cat([one.pixel_values for one in inputs]),
        "image_grid_thw": torch.cat([one.image_grid_thw for one in inputs]),
    }
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for _ in range(1000):
        logprobs = model(**batch).logits[:, :-1].log_softmax(-1)
        chosen = logprobs.gather(-1, ids[:, 1:, None])[..., 0][answered[:, 1:]]
        if chosen.min() > -0.5:
            return
        optimizer.zero_grad()
        (-chosen.mean()).backward()
        optimizer.step()
    raise AssertionError(f"the tiny model has not learnt its answers: worst token {chosen.min():.3f}")
