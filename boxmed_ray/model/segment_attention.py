"""Attention over a flat row of prompts and responses: no mask, no padding in the row, no repeated keys.

What lives here: the attention function that transformers calls in place of its own (keyword ``row``), and its gradient.
What does not: where segments stand (row_layout.py) and what runs the model (shared_prefix.py).

A response attends to its group's prompt and, causally, to itself. The two parts are computed apart, each by a dense
kernel without a mask: all responses of a group against the prompt's keys at once, and each response on its own. With
o₁, o₂ the two outputs and ℓ₁, ℓ₂ the log-sums of exponentiated scores of their softmaxes, the whole is
o = w·o₁ + (1 − w)·o₂ with w = σ(ℓ₁ − ℓ₂) and ℓ = log(e^ℓ₁ + e^ℓ₂). The gradient of each part is the usual one of flash
attention (arXiv 2205.14135, algorithm 4) with the *whole* o and ℓ in place of the part's own, so nothing else is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from boxmed_ray.model.row_layout import Bucket, RowLayout

NAME = "shared_prompt"
"""Name under which transformers knows this attention."""


class Row:
    """What one forward pass over a row tells every attention layer.

    Args:
        layout: the row.
        part: "both" for a row of prompts and responses; "prompts" keeps each layer's keys and values in ``kept``;
            "responses" takes the prompts' keys and values from there.
        kept: layer index → keys and values of the prompts, [tokens, kv heads, head size].
    """

    def __init__(self, layout: RowLayout, part: str = "both", kept: dict[int, tuple[Tensor, Tensor]] | None = None):
        self.layout = layout
        self.part = part
        self.kept = {} if kept is None else kept

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, layer: int) -> Tensor:
        """Attention of one layer. q [T, H, d]; k, v [T, Hkv, d]; returns [T, H, d]."""
        if self.part == "prompts":
            # Recomputation under gradient checkpointing comes here again: the first pair is the one in the graph.
            self.kept.setdefault(layer, (k, v))
            return causal(q, k, v, self.layout.prompts, scale)
        if self.part == "responses":
            return with_prefix(q, k, v, *self.kept[layer], self.layout, scale)
        sizes = [self.layout.prompt_tokens, self.layout.response_tokens]
        (q_p, q_r), (k_p, k_r), (v_p, v_r) = q.split(sizes), k.split(sizes), v.split(sizes)
        prompts = causal(q_p, k_p, v_p, self.layout.prompts, scale)
        return torch.cat([prompts, with_prefix(q_r, k_r, v_r, k_p, v_p, self.layout, scale)])


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row: Row | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: with ``row`` the attention of this module, without it plain SDPA."""
    if row is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    q, k, v = (states.transpose(1, 2)[0] for states in (query, key, value))
    out = row.attend(q, k, v, float(kwargs["scaling"]), int(module.layer_idx))  # type: ignore[arg-type]
    return out[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, attention_forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def causal(q: Tensor, k: Tensor, v: Tensor, segments: tuple[Bucket, ...], scale: float) -> Tensor:
    """Causal attention inside each segment. q [T, H, d]; k, v [T, Hkv, d]; returns [T, H, d]."""
    return _Attend.apply(q, k, v, None, None, segments, (), scale)


def with_prefix(
    q: Tensor, k: Tensor, v: Tensor, prompt_k: Tensor, prompt_v: Tensor, layout: RowLayout, scale: float
) -> Tensor:
    """Attention of response tokens to their prompt and to themselves.

    q [T, H, d]; k, v [T, Hkv, d]; prompt_k, prompt_v [Σ P, Hkv, d]; returns [T, H, d].
    """
    return _Attend.apply(q, k, v, prompt_k, prompt_v, layout.responses, layout.spans, scale)


class _Attend(torch.autograd.Function):
    """Causal attention inside segments, merged with full attention to prefixes; see the module's text."""

    @staticmethod
    def forward(ctx, q, k, v, prompt_k, prompt_v, segments, spans, scale):  # type: ignore[no-untyped-def]
        ctx.segments, ctx.spans, ctx.scale = segments, spans, scale
        out, lse = torch.empty_like(q), torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        for bucket in segments:
            part, sums = _flash(_pad(q, bucket), _expand(_pad(k, bucket), q), _expand(_pad(v, bucket), q), True, scale)
            out.index_copy_(0, bucket.tokens, _unpad(part, bucket))
            lse.index_copy_(0, bucket.tokens, _unpad(sums.unsqueeze(-1), bucket).squeeze(-1))
        if spans:
            part, sums = torch.empty_like(out), torch.empty_like(lse)
            for p0, p1, r0, r1 in spans:
                o, s = _flash(
                    _one(q[r0:r1]), _expand(_one(prompt_k[p0:p1]), q), _expand(_one(prompt_v[p0:p1]), q), False, scale
                )
                part[r0:r1], sums[r0:r1] = o[0].transpose(0, 1), s[0].transpose(0, 1)
            weight = torch.sigmoid(lse - sums).unsqueeze(-1).to(q.dtype)
            out, lse = torch.lerp(part, out, weight), torch.logaddexp(lse, sums)
        ctx.save_for_backward(q, k, v, prompt_k, prompt_v, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        q, k, v, prompt_k, prompt_v, out, lse = ctx.saved_tensors
        scale, grad = ctx.scale, grad.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for bucket in ctx.segments:
            sums = _pad(lse.unsqueeze(-1), bucket, float("inf")).squeeze(-1)  # exp(score − ∞) = 0: padding adds nothing
            parts = _flash_backward(
                _pad(grad, bucket, 0.0), _pad(q, bucket), _expand(_pad(k, bucket), q), _expand(_pad(v, bucket), q),
                _pad(out, bucket), sums, True, scale,
            )  # fmt: skip
            for whole, part in zip((dq, dk, dv), parts, strict=True):
                whole.index_copy_(0, bucket.tokens, _unpad(_shrink(part, whole), bucket))
        if not ctx.spans:
            return dq, dk, dv, None, None, None, None, None
        dpk, dpv = torch.zeros_like(prompt_k), torch.zeros_like(prompt_v)
        for p0, p1, r0, r1 in ctx.spans:
            parts = _flash_backward(
                _one(grad[r0:r1]), _one(q[r0:r1]), _expand(_one(prompt_k[p0:p1]), q), _expand(_one(prompt_v[p0:p1]), q),
                _one(out[r0:r1]), lse[r0:r1].transpose(0, 1)[None], False, scale,
            )  # fmt: skip
            dq[r0:r1] += parts[0][0].transpose(0, 1)
            dpk[p0:p1] = _shrink(parts[1], dpk)[0].transpose(0, 1)
            dpv[p0:p1] = _shrink(parts[2], dpv)[0].transpose(0, 1)
        return dq, dk, dv, dpk, dpv, None, None, None


def _one(states: Tensor) -> Tensor:
    """[T, H, d] → [1, H, T, d]."""
    return states.transpose(0, 1)[None]


def _pad(states: Tensor, bucket: Bucket, fill: float | None = None) -> Tensor:
    """[T, H, d] → [S, H, L, d]; ``fill`` overwrites the padding, which else holds some real row."""
    if fill is None or bucket.cells is None:
        padded = states.index_select(0, bucket.rows)
    else:
        padded = states.new_full((bucket.rows.shape[0], *states.shape[1:]), fill)
        padded.index_copy_(0, bucket.cells, states.index_select(0, bucket.tokens))
    return padded.view(bucket.count, bucket.length, *states.shape[1:]).transpose(1, 2)


def _unpad(padded: Tensor, bucket: Bucket) -> Tensor:
    """[S, H, L, d] → [tokens, H, d]."""
    flat = padded.transpose(1, 2).reshape(bucket.count * bucket.length, padded.shape[1], padded.shape[3])
    return flat if bucket.cells is None else flat.index_select(0, bucket.cells)


def _expand(states: Tensor, q: Tensor) -> Tensor:
    """Repeat the key-value heads of [S, Hkv, L, d] for grouped-query attention."""
    repeats = q.shape[1] // states.shape[1]
    return states if repeats == 1 else states.repeat_interleave(repeats, dim=1)


def _shrink(grad: Tensor, like: Tensor) -> Tensor:
    """Undo ``_expand`` for a gradient: sum over the heads that shared a key-value head of ``like`` [T, Hkv, d]."""
    heads = like.shape[1]
    return grad if grad.shape[1] == heads else grad.unflatten(1, (heads, -1)).sum(2)


def _flash(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """[S, H, L, d] → output [S, H, L, d] and log-sums [S, H, L]."""
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal, scale=scale)
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if is_causal:
        scores = scores.masked_fill(_future(scores), float("-inf"))
    sums = torch.logsumexp(scores, -1)
    return (scores - sums[..., None]).exp_().to(v.dtype) @ v, sums


def _flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v given the output and log-sums of the whole softmax that this part belongs to."""
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, is_causal, scale=scale
        )
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if is_causal:
        scores = scores.masked_fill(_future(scores), float("-inf"))
    weights = (scores - lse[..., None]).exp_()
    change = (grad @ v.transpose(-1, -2)).float() - (grad.float() * out.float()).sum(-1, keepdim=True)
    d_scores = (weights * change * scale).to(q.dtype)
    return d_scores @ k, d_scores.transpose(-1, -2) @ q, weights.to(grad.dtype).transpose(-1, -2) @ grad


def _future(scores: Tensor) -> Tensor:
    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
