"""Log-probabilities of the responses of groups that share an image and a prompt, each computed once.

What lives here: the groups' inputs and result, and the ways to compute them. What does not: attention
(segment_attention.py), the row's geometry (row_layout.py), the head (logprobs.py), what the model's own modules give
(backbone.py), the reference (replicated.py).

``packed_row``    one pass over the row [prompts | responses].
``prefix_cache``  one pass over the prompts, whose keys and values stay in the graph, then one over the responses.
``replicated``    every response with a copy of prompt and image, as other trainers do; the reference.
``auto``          ``packed_row``, as quick as the other at every shape measured (docs/learner.md).

The first two give what the third gives, gradients included, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxmed_ray.model.backbone import image_features, positions, prepare, unwrap
from boxmed_ray.model.logprobs import token_logprobs
from boxmed_ray.model.replicated import replicated_hidden
from boxmed_ray.model.row_layout import RowLayout
from boxmed_ray.model.segment_attention import Row

Mode = Literal["auto", "prefix_cache", "packed_row", "replicated"]


@dataclass
class GroupInputs:
    """One prompt with its image and N responses.

    Attributes:
        prompt_ids: [P] token ids, image placeholders expanded.
        pixel_values: [patches, dim] as the image processor gives them.
        image_grid_thw: [1, 3] patches in time, height and width.
        responses: N tensors [R_i] of token ids, R_i ≥ 1.
    """

    prompt_ids: Tensor
    pixel_values: Tensor
    image_grid_thw: Tensor
    responses: list[Tensor]


@dataclass
class ResponseLogprobs:
    """Per group, right-padded to the group's longest response.

    Attributes:
        logprobs: [N, Rmax] float32; 0 where padded.
        mask: [N, Rmax] bool, True on tokens.
        entropy: [N, Rmax] of each token's distribution in nats, without gradient; None unless asked for.
    """

    logprobs: list[Tensor]
    mask: list[Tensor]
    entropy: list[Tensor] | None = None

    def stacked(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities, mask and entropy of all groups as [B, R] tensors, B responses in the groups' order."""
        longest = max(mask.shape[1] for mask in self.mask)

        def stack(parts: list[Tensor]) -> Tensor:
            return torch.cat([torch.nn.functional.pad(part, (0, longest - part.shape[1])) for part in parts])

        return stack(self.logprobs), stack(self.mask), None if self.entropy is None else stack(self.entropy)


def response_logprobs(
    model: nn.Module,
    groups: Sequence[GroupInputs],
    *,
    mode: Mode = "auto",
    banned_ids: Sequence[int] = (),
    temperature: float = 1.0,
    chunk: int | None = None,
    with_entropy: bool = False,
) -> ResponseLogprobs:
    """Log-probability of every response token given its group's image and prompt and the tokens before it.

    Differentiable in every parameter. Images, prompts and responses are never padded except inside attention, where
    padding is never seen by a token. Images equal in content go through the vision tower once.

    Args:
        model: a Qwen2-VL, Qwen2.5-VL or Qwen3-VL for conditional generation, bare, under PEFT, or in a DeepSpeed
            engine of ZeRO 0–2. For ZeRO 3 call the engine around ``ResponsePolicy`` instead.
        groups: one micro-batch.
        mode: see the module's text.
        banned_ids: tokens that the sampler never draws; their logits are −∞ here too.
        temperature: logits are divided by it, as in the sampler.
        chunk: rows whose logits exist at once (logprobs.py).
        with_entropy: also return entropies.

    Raises:
        ValueError: an empty response, image tokens that do not match the image, or a model of another family.
    """
    vlm = unwrap(model)
    _check(vlm, groups)
    if mode == "auto":
        mode = "packed_row"
    targets = [response.to(vlm.device) for group in groups for response in group.responses]
    if mode == "replicated":
        first, rest = replicated_hidden(vlm, groups)
        owners = torch.arange(len(targets), device=vlm.device)
    else:
        first, rest = _shared_hidden(vlm, groups, mode)
        counts = torch.tensor([len(group.responses) for group in groups], device=vlm.device)
        owners = torch.arange(len(groups), device=vlm.device).repeat_interleave(counts)
    options: dict[str, Any] = {
        "banned": torch.tensor(sorted(set(banned_ids)), device=vlm.device) if banned_ids else None,
        "temperature": temperature,
        "chunk": chunk,
        "vocabulary": vlm.config.text_config.vocab_size,
        "with_entropy": with_entropy,
    }
    heads = torch.stack([target[0] for target in targets])
    tails = torch.cat([target[1:] for target in targets])
    first_logprobs, first_entropy = _first_tokens(vlm, first, heads, owners, options)
    rest_logprobs, rest_entropy = token_logprobs(rest, tails[:, None], vlm.lm_head, **options)
    lengths = [len(target) for target in targets]
    sizes = [len(group.responses) for group in groups]
    logprobs, mask = _regroup(first_logprobs, rest_logprobs[:, 0], lengths, sizes)
    if first_entropy is None or rest_entropy is None:
        return ResponseLogprobs(logprobs, mask)
    return ResponseLogprobs(logprobs, mask, _regroup(first_entropy, rest_entropy, lengths, sizes)[0])


class ResponsePolicy(nn.Module):
    """``response_logprobs`` as a module's forward, for engines that must see their own forward called (ZeRO 3)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, groups: Sequence[GroupInputs], **options: Any) -> ResponseLogprobs:
        """See ``response_logprobs``."""
        return response_logprobs(self.model, groups, **options)


def _check(vlm: Any, groups: Sequence[GroupInputs]) -> None:
    merge = vlm.config.vision_config.spatial_merge_size**2
    for index, group in enumerate(groups):
        tokens = int((group.prompt_ids == vlm.config.image_token_id).sum())
        features = int(group.image_grid_thw.prod(-1).sum()) // merge
        if tokens != features:
            raise ValueError(f"group {index}: {tokens} image tokens in the prompt, {features} features of the image")
        if any(len(response) == 0 for response in group.responses) or not group.responses:
            raise ValueError(f"group {index}: needs at least one response, each of at least one token")


def _shared_hidden(vlm: Any, groups: Sequence[GroupInputs], mode: Mode) -> tuple[Tensor, Tensor]:
    """Final hidden states of the prompts' last tokens [G, D] and of all response tokens but each last [T, D]."""
    device = vlm.device
    inner, text = prepare(vlm), vlm.model.language_model
    layout = RowLayout(
        tuple(len(group.prompt_ids) for group in groups),
        tuple(tuple(len(response) - 1 for response in group.responses) for group in groups),
        device,
    )
    prompt_ids = torch.cat([group.prompt_ids for group in groups]).to(device)
    response_ids = torch.cat([r[:-1] for group in groups for r in group.responses]).to(device)
    images, deepstack = image_features(inner, groups)
    places = prompt_ids == vlm.config.image_token_id
    prompt_positions, response_positions = positions(inner, groups, device)
    ends = torch.tensor(layout.prompt_lengths, device=device).cumsum(0) - 1
    embed = vlm.get_input_embeddings()

    def run(row: Row, ids: Tensor, places_in_rope: Tensor) -> Tensor:
        embeds, extra = embed(ids), {}
        if row.prefix is None:
            mask = torch.nn.functional.pad(places, (0, len(ids) - len(places)))
            embeds = embeds.masked_scatter(mask[:, None], images.to(embeds.dtype))
            if deepstack is not None:
                extra = {"visual_pos_masks": mask[None], "deepstack_visual_embeds": deepstack}
        output = text(
            inputs_embeds=embeds[None], position_ids=places_in_rope[:, None], use_cache=False, row=row, **extra
        )
        return output.last_hidden_state[0]

    if mode == "packed_row":
        ids = torch.cat([prompt_ids, response_ids])
        hidden = run(Row(layout.whole()), ids, torch.cat([prompt_positions, response_positions], 1))
        return hidden[ends], hidden[layout.prompt_tokens :]
    if mode != "prefix_cache":
        raise ValueError(f"mode {mode!r} is unknown; use auto, prefix_cache, packed_row or replicated")
    cache = Row(layout.prompts(), store=True)
    first = run(cache, prompt_ids, prompt_positions)[ends]
    if not len(response_ids):
        return first, first[:0]
    return first, run(Row(layout.responses(), prefix=cache.kept), response_ids, response_positions)


def _first_tokens(
    vlm: Any, hidden: Tensor, heads: Tensor, owners: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [ΣN] of all first tokens: ``hidden[owner]`` predicts those of all responses of its group."""
    counts = torch.bincount(owners, minlength=len(hidden))
    column = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
    table = heads.new_zeros(len(hidden), int(counts.max()))
    table[owners, column] = heads
    logprobs, entropy = token_logprobs(hidden, table, vlm.lm_head, **options)
    return logprobs[owners, column], None if entropy is None else entropy[owners]


def _regroup(first: Tensor, rest: Tensor, lengths: list[int], sizes: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    """[ΣN] and [Σ (R − 1)] values → per group [N, Rmax] values and mask."""
    ends = torch.tensor(lengths, device=first.device)
    starts = len(first) + (ends - 1).cumsum(0) - ends  # where a response's second token stands in ``flat``, less 1
    flat = torch.cat([first, rest])
    values, masks, begin = [], [], 0
    for size in sizes:
        rows = slice(begin, begin + size)
        steps = torch.arange(max(lengths[rows]), device=first.device)
        mask = steps < ends[rows, None]
        places = torch.where(
            steps == 0, torch.arange(begin, begin + size, device=first.device)[:, None], starts[rows, None] + steps
        )
        values.append(flat[places.masked_fill(~mask, 0)].masked_fill(~mask, 0.0))
        masks.append(mask)
        begin += size
    return values, masks
