"""What a group takes from the backbone's own modules: image features and rotary positions.

What lives here: finding the model inside its wrappers, readying it, the vision pass, positions. What does not: the text
model's pass over a row (shared_prefix.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from boxmed_ray.model.segment_attention import NAME

if TYPE_CHECKING:
    from boxmed_ray.model.shared_prefix import GroupInputs

POSITIONS_KEPT = 1024
"""Layouts of prompts whose rotary positions are remembered; working them out takes Python loops over the prompt."""


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside engine, PEFT or ``ResponsePolicy`` wrappers."""
    while "lm_head" not in dict(model.named_children()):
        peft: Any = getattr(model, "get_base_model", None)  # PEFT passes every other name on to what it wraps
        inner = peft() if peft is not None else getattr(model, "module", None) or getattr(model, "model", None)
        if not isinstance(inner, nn.Module):
            raise ValueError(
                f"{type(model).__name__} holds no vision-language model; give Qwen2-VL, Qwen2.5-VL or Qwen3-VL"
            )
        model = inner
    return model


class _PatchProjection(nn.Conv3d):
    """A convolution whose stride is its kernel is a product of matrices; as such it is several times as quick."""

    def forward(self, patches: Tensor) -> Tensor:
        """[patches, channels, frames, height, width] → [patches, D, 1, 1, 1]."""
        return nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def prepare(vlm: Any) -> Any:
    """Let the model's own modules run rows; returns the model below the head. Weights, names and results stay."""
    inner = vlm.model
    inner.language_model.config._attn_implementation = NAME  # without a row it is SDPA
    projection = inner.visual.patch_embed.proj
    if type(projection) is nn.Conv3d:
        projection.__class__ = _PatchProjection
    return inner


def image_features(inner: Any, groups: Sequence[GroupInputs]) -> tuple[Tensor, list[Tensor] | None]:
    """Features of the groups' images in order [Σ tokens, D], and Qwen3-VL's deepstack features, else None.

    One vision pass over the distinct images of the micro-batch.
    """
    distinct: list[GroupInputs] = []
    owners: list[int] = []
    for group in groups:
        same = (i for i, other in enumerate(distinct) if _same_image(group, other))
        owner = next(same, len(distinct))
        if owner == len(distinct):
            distinct.append(group)
        owners.append(owner)
    device = inner.device
    pixels = torch.cat([group.pixel_values for group in distinct]).to(device)
    grids = torch.cat([group.image_grid_thw for group in distinct]).to(device)
    output = inner.get_image_features(pixels, grids, return_dict=True)
    features = torch.cat([output.pooler_output[owner] for owner in owners])
    deep = getattr(output, "deepstack_features", None)
    return features, None if deep is None else [torch.cat([layer[owner] for owner in owners]) for layer in deep]


def _same_image(one: GroupInputs, other: GroupInputs) -> bool:
    return one.pixel_values is other.pixel_values or (
        torch.equal(one.image_grid_thw, other.image_grid_thw) and torch.equal(one.pixel_values, other.pixel_values)
    )


def positions(inner: Any, groups: Sequence[GroupInputs], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rotary positions [3, Σ P] of the prompts and [3, Σ (R − 1)] of the responses, restarting after their prompt."""
    prompts, responses = [], []
    for group in groups:
        position = _prompt_positions(inner, group)
        prompts.append(position)
        start = int(position.max()) + 1
        responses += [torch.arange(start, start + len(response) - 1) for response in group.responses]
    return torch.cat(prompts, 1).to(device), torch.cat(responses).to(device).expand(3, -1)


_known_positions: WeakKeyDictionary[nn.Module, dict[tuple[bytes, bytes], Tensor]] = WeakKeyDictionary()


def _prompt_positions(inner: Any, group: GroupInputs) -> Tensor:
    """The model's own rotary positions [3, P] of a prompt, which depend only on where its image is and on the grid."""
    kinds = (group.prompt_ids[None].cpu() == inner.config.image_token_id).int()
    key = (kinds.numpy().tobytes(), group.image_grid_thw.cpu().numpy().tobytes())
    known = _known_positions.setdefault(inner, {})
    if key not in known:
        if len(known) >= POSITIONS_KEPT:
            known.clear()
        ids, grid = group.prompt_ids[None].cpu(), group.image_grid_thw.cpu()
        known[key] = inner.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grid)[0][:, 0]
    return known[key]
