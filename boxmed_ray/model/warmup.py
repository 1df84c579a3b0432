"""A short start for the vision tower of the tiny backbone, which has never seen an image.

What lives here: the warm-up's targets, its throw-away head and its loop. What does not: the tiny
backbone itself (tiny.py). Published backbones skip it: their towers have seen millions of images.

From the mean of an image's tokens a linear head tells, for each label, whether it is there and where.
The language model takes no part, and the head is thrown away: what stays is a tower whose tokens hold
what is in the image. Without it the language model needs some 400 supervised steps before it looks at
the image at all (docs/training.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from boxmed_ray.config import SupervisedConfig
from boxmed_ray.data.concepts import label_of
from boxmed_ray.data.examples import grounded_findings
from boxmed_ray.data.study import Study
from boxmed_ray.model.backbone import prepare
from boxmed_ray.model.engine import cosine_lr
from boxmed_ray.model.policy import load_policy, load_processor

BATCH, BOX_WEIGHT = 64, 5.0
_SETTINGS = SupervisedConfig(lr=2e-3, warmup_steps=20, min_lr_ratio=0.05)


def warm_up_vision(
    folder: Path,
    studies: Sequence[Study],
    load: Callable[[Study], Image.Image],
    *,
    steps: int,
    seed: int,
    threads: int,
    on_step: Callable[[int, float], None],
) -> None:
    """Train vision tower and projector of the model in ``folder``, in place.

    Args:
        folder: a Qwen2-VL that transformers loads.
        studies: of the training split.
        load: a study's image at the size the model sees.
        steps: of ``BATCH`` images.
        seed: of the order and the head.
        threads: of this process from now on: more than there are idle cores spin against each other, tenfold slower.
        on_step: told the step and its loss.
    """
    if not any(grounded_findings(study) for study in studies):
        return
    torch.set_num_threads(threads)
    model, processor = load_policy(folder), load_processor(folder)
    prepare(model)
    targets = _targets(studies)
    images = _Patches(processor, [load(study) for study in studies])
    tower: nn.Module = model.model.visual
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(model.config.text_config.hidden_size, targets.shape[1] * 5)
    parameters = [*tower.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, weight_decay=_SETTINGS.weight_decay, betas=(0.9, _SETTINGS.adam_beta2))
    order = random.Random(f"warm-up/{seed}")
    tower.train()
    for step in range(steps):
        chosen = order.sample(range(len(studies)), min(BATCH, len(studies)))
        loss = _loss(head(images.mean_tokens(tower, chosen)).view(len(chosen), -1, 5), targets[chosen])
        for group in optimiser.param_groups:
            group["lr"] = cosine_lr(step, _SETTINGS, steps)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, _SETTINGS.grad_clip)
        optimiser.step()
        on_step(step + 1, float(loss.detach()))
    model.save_pretrained(folder)


def _targets(studies: Sequence[Study]) -> Tensor:
    """[studies, labels, 5]: 1 and the first box as shares of the image where a label has one, else 0."""
    labels = sorted({label_of(finding) for study in studies for finding in grounded_findings(study)})
    targets = torch.zeros(len(studies), len(labels), 5)
    for row, study in enumerate(studies):
        size = torch.tensor([study.width, study.height] * 2, dtype=torch.float32)
        for finding in grounded_findings(study):
            targets[row, labels.index(label_of(finding))] = torch.cat(
                [torch.ones(1), torch.tensor(finding.boxes[0]) / size]
            )
    return targets


def _loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of presence, and the mean distance of the sides where there is a box."""
    present = target[..., 0]
    distance = (predicted[..., 1:] - target[..., 1:]).abs().mean(-1)
    presence = nn.functional.binary_cross_entropy_with_logits(predicted[..., 0], present)
    return presence + BOX_WEIGHT * (distance * present).sum() / present.sum().clamp(min=1)


class _Patches:
    """Every image's patches, processed once and kept in half precision."""

    def __init__(self, processor: Any, images: Sequence[Image.Image]) -> None:
        self._merged = processor.image_processor.merge_size**2
        self._pixels: list[Tensor] = []
        self._grids: list[Tensor] = []
        for start in range(0, len(images), BATCH):
            out = processor.image_processor(images=list(images[start : start + BATCH]), return_tensors="pt")
            sizes = out["image_grid_thw"].prod(-1).tolist()
            self._pixels += [part.half() for part in out["pixel_values"].split(sizes)]
            self._grids += list(out["image_grid_thw"].split(1))

    def mean_tokens(self, tower: nn.Module, chosen: Sequence[int]) -> Tensor:
        """[chosen, D]: the mean over each image's tokens, each token scaled to unit root mean square."""
        grid = torch.cat([self._grids[i] for i in chosen])
        out = tower(torch.cat([self._pixels[i] for i in chosen]).float(), grid_thw=grid)
        tokens = getattr(out, "pooler_output", out)
        tokens = tokens / (tokens.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        lengths = (grid.prod(-1) // self._merged).tolist()
        return torch.stack([part.mean(0) for part in tokens.split(lengths)])
