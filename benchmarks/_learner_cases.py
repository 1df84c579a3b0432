"""What the learner benchmark measures: its shapes, and for each a model folder, a batch, and the FLOPs it costs.

What lives here: those, the same for every side. What does not: the sides (_learner_sides.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from boxmed_ray.config import DataConfig, ModelConfig
from boxmed_ray.data.examples import corpus
from boxmed_ray.data.load import load_studies
from boxmed_ray.data.prompts import Task
from boxmed_ray.model import policy
from boxmed_ray.model.collate import GroupEncoder
from boxmed_ray.model.shared_prefix import GroupInputs
from boxmed_ray.model.tiny import build_tiny

SIZES = ModelConfig(hidden_size=256, layers=4, vision_hidden_size=192, vision_layers=4, patch_size=14, max_length=1024)


@dataclass(frozen=True, slots=True)
class Shape:
    """One group: image tokens, tokens of every response, responses."""

    image_tokens: int
    response: int
    n: int

    @property
    def side(self) -> int:
        """Side of the image in pixels."""
        return int(self.image_tokens**0.5) * 28


SHAPES = [Shape(144, 64, 8), Shape(256, 128, 8), Shape(576, 256, 16)]
QUICK = [Shape(16, 12, 4), Shape(36, 16, 4), Shape(64, 24, 8)]


@dataclass(frozen=True, slots=True)
class Batch:
    """One group with advantages [N], as every side gets it."""

    group: GroupInputs
    advantages: torch.Tensor

    @property
    def tokens(self) -> int:
        """Response tokens."""
        return sum(map(len, self.group.responses))


def build(shape: Shape, folder: Path) -> Path:
    """Write the model folder of ``shape`` below ``folder`` and return it."""
    data = DataConfig(kind="phantom", train_studies=32, test_studies=4, image_size=shape.side)
    dataset = load_studies(data, 0, folder / "data")
    build_tiny(SIZES, shape.side, corpus(dataset.split("train")), 0, folder / "model")
    return folder / "model"


def make_batch(shape: Shape, model: Path, folder: Path) -> Batch:
    """A phantom, a grounding prompt, and random responses of the shape's length."""
    data = DataConfig(kind="phantom", train_studies=32, test_studies=4, image_size=shape.side)
    study = load_studies(data, 0, folder / "data").split("train")[0]
    processor: Any = policy.load_processor(model)
    generator = torch.Generator().manual_seed(0)
    plain = torch.tensor(
        sorted(set(range(len(processor.tokenizer))) - set(policy.vision_token_ids(processor.tokenizer)))
    )
    responses = [plain[torch.randint(len(plain), (shape.response,), generator=generator)] for _ in range(shape.n)]
    encoder = GroupEncoder(processor, shape.side)
    group = encoder.group(study.image, Task.GROUND, "Small pleural effusion at the left base.", responses)
    found = int(group.image_grid_thw.prod()) // 4
    if found != shape.image_tokens:
        raise RuntimeError(f"the image makes {found} tokens instead of {shape.image_tokens}")
    return Batch(group, torch.randn(shape.n, generator=generator))


def count_flops(step: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and attention of one forward and backward pass."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    counter = FlopCounterMode(display=False, custom_mapping={flash: _forward_flops, backward: _backward_flops})
    with counter:
        step()
    return int(counter.get_total_flops())


def _forward_flops(q: Any, k: Any, v: Any, dropout: float = 0.0, causal: bool = False, *_: Any, **__: Any) -> int:
    batch, heads, rows, size = q
    products = 4 * batch * heads * rows * k[2] * size
    return products // 2 if causal else products


def _backward_flops(
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    dropout: float = 0.0,
    causal: bool = False,
    *_: Any,
    **__: Any,
) -> int:
    return _forward_flops(q, k, v, dropout, causal) * 5 // 2  # five products where the forward pass has two
