"""Tiny models of the three families and random groups, for the tests of the learner's forward pass."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from boxmed_ray.model.shared_prefix import GroupInputs

HIDDEN = 32
VOCABULARY, IMAGE, VIDEO, START, END = 97, 90, 91, 92, 93
BANNED = (IMAGE, VIDEO, START, END)


def tiny(family: str, seed: int = 0, tied: bool = False) -> Any:
    """A random model of ``family``: qwen2, qwen2_5 or qwen3; grouped-query attention, 3 text and 2 vision layers."""
    torch.manual_seed(seed)
    text: dict[str, Any] = {
        "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 512, "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": tied,
    }  # fmt: skip
    ids = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
           "tie_word_embeddings": tied}  # fmt: skip
    if family == "qwen2":
        vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
        model: Any = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    elif family == "qwen2_5":
        vision = {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
                  "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]}  # fmt: skip
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
    else:
        vision = {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
                  "patch_size": 4, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}  # fmt: skip
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
    with torch.no_grad():  # far from the small initial values, so that a wrong mask or position shows
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
    return model.float().eval()


def random_group(
    generator: torch.Generator, n: int, *, grid: tuple[int, int] | None = None, longest: int = 20, patch_dim: int = 96
) -> GroupInputs:
    """A group with random image size, prompt and response lengths (``patch_dim`` = 3 channels · 2 frames · 4 · 4)."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    height, width = grid or (2 * draw(1, 4), 2 * draw(1, 4))

    def words(count: int) -> torch.Tensor:
        return torch.randint(0, IMAGE, (count,), generator=generator)

    image = torch.cat([torch.tensor([START]), torch.full((height * width // 4,), IMAGE), torch.tensor([END])])
    return GroupInputs(
        prompt_ids=torch.cat([words(draw(0, 5)), image, words(draw(1, 9))]),
        pixel_values=torch.randn(height * width, 2 * patch_dim // 2, generator=generator),
        image_grid_thw=torch.tensor([[1, height, width]]),
        responses=[words(draw(1, longest)) for _ in range(n)],
    )


def plain_logprobs(model: Any, group: GroupInputs, index: int, temperature: float = 1.0) -> torch.Tensor:
    """Independent of the code under test: one sample through transformers' own forward, no batch and no padding."""
    response = group.responses[index]
    ids = torch.cat([group.prompt_ids, response])[None]
    logits = model(
        input_ids=ids,
        pixel_values=group.pixel_values,
        image_grid_thw=group.image_grid_thw,
        mm_token_type_ids=(ids == IMAGE).int(),
        use_cache=False,
    ).logits[0, len(group.prompt_ids) - 1 : -1]
    logits = logits / temperature
    logits[:, list(BANNED)] = float("-inf")
    return torch.log_softmax(logits, -1)[torch.arange(len(response)), response]
