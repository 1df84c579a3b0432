"""Attention over a flat row of prompts and responses: no mask, no padding in the row, no repeated keys.

What lives here: the attention function that transformers calls in place of its own (keyword ``row``), and its gradient.
What does not: where segments stand (row_layout.py), what runs the model (shared_prefix.py), and FlexAttention, which
computes the same on CUDA (flex_attention.py). Without it, which is the CPU, other devices and float64:

A response attends to its group's prompt and, causally, to itself. The two parts are computed apart, each by a dense
kernel without a mask: all responses of a group against the prompt's keys at once, and each response on its own. With
o₁, o₂ the two outputs and ℓ₁, ℓ₂ the log-sums of exponentiated scores of their softmaxes, the whole is
o = w·o₁ + (1 − w)·o₂ with w = σ(ℓ₁ − ℓ₂) and ℓ = log(e^ℓ₁ + e^ℓ₂). The gradient of each part is the usual one of flash
attention (arXiv 2205.14135, algorithm 4) with the *whole* o and ℓ in place of the part's own, so nothing else is kept.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from boxmed_ray.model import flex_attention
from boxmed_ray.model.row_layout import Bucket, Pieces

NAME = "shared_prompt"
"""Name under which transformers knows this attention."""

_KERNEL_DEVICE = "cpu"
"""Where torch has a flash kernel that gives the log-sums and takes those of the whole in its gradient, in any type."""


class Row:
    """What one forward pass over a row, or over a part of it, tells every attention layer.

    Args:
        pieces: the part of the row that runs.
        store: keep each layer's keys and values, for a later pass over the responses.
        prefix: keys and values that an earlier pass over the prompts kept; None where prompts are in this pass.
    """

    def __init__(self, pieces: Pieces, store: bool = False, prefix: dict[int, tuple[Tensor, Tensor]] | None = None):
        self.pieces = pieces
        self.store = store
        self.prefix = prefix
        self.graded = torch.is_grad_enabled()
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, layer: int) -> Tensor:
        """Attention of one layer. q [T, H, d]; k, v [T, Hkv, d]; returns [T, H, d]."""
        if self.store:
            # Recomputation under gradient checkpointing comes here again: the first pair is the one in the graph.
            if torch.is_grad_enabled() != self.graded:
                raise RuntimeError(
                    "prefix_cache keeps keys and values outside of the layers, where reentrant gradient checkpointing "
                    "drops their gradient; use mode packed_row or checkpoint with use_reentrant=False"
                )
            self.kept.setdefault(layer, (k, v))
        prompt_k, prompt_v = (None, None) if self.prefix is None else self.prefix[layer]
        if not flex_attention.suits(q):
            return _Attend.apply(q, k, v, prompt_k, prompt_v, self.pieces, scale)
        if prompt_k is not None and prompt_v is not None:
            k, v = torch.cat([prompt_k, k]), torch.cat([prompt_v, v])
        return flex_attention.attend(q, k, v, self._mask, scale)

    @cached_property
    def _mask(self) -> BlockMask:
        return flex_attention.block_mask(self.pieces)


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


class _Attend(torch.autograd.Function):
    """Causal attention inside segments, merged with full attention of responses to prompts; see the module's text.

    q [T, H, d]; k, v [T, Hkv, d]; prompt_k, prompt_v [Σ P, Hkv, d], or None where the prompts are rows of k and v.
    """

    @staticmethod
    def forward(ctx, q, k, v, prompt_k, prompt_v, pieces, scale):  # type: ignore[no-untyped-def]
        ctx.pieces, ctx.scale = pieces, scale
        out, lse = torch.empty_like(q), torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        for bucket in pieces.segments:
            part, sums = _flash(_pad(q, bucket), _expand(_pad(k, bucket), q), _expand(_pad(v, bucket), q), True, scale)
            out.index_copy_(0, bucket.tokens, _unpad(part, bucket))
            lse.index_copy_(0, bucket.tokens, _unpad(sums.unsqueeze(-1), bucket).squeeze(-1))
        from_k, from_v = (k, v) if prompt_k is None else (prompt_k, prompt_v)
        for p0, p1, r0, r1 in pieces.spans:
            keys, values = _expand(_one(from_k[p0:p1]), q), _expand(_one(from_v[p0:p1]), q)
            part, sums = (x[0].transpose(0, 1) for x in _flash(_one(q[r0:r1]), keys, values, False, scale))
            own, own_sums = out[r0:r1], lse[r0:r1]
            own.lerp_(part, torch.sigmoid(sums - own_sums).unsqueeze(-1).to(q.dtype))
            torch.logaddexp(own_sums, sums, out=own_sums)
        ctx.save_for_backward(q, k, v, prompt_k, prompt_v, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        q, k, v, prompt_k, prompt_v, out, lse = ctx.saved_tensors
        scale, grad = ctx.scale, grad.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for bucket in ctx.pieces.segments:
            sums = _pad(lse.unsqueeze(-1), bucket, float("inf")).squeeze(-1)  # exp(score − ∞) = 0: padding adds nothing
            keys, values = _expand(_pad(k, bucket), q), _expand(_pad(v, bucket), q)
            parts = _flash_backward(
                _pad(grad, bucket, 0.0), _pad(q, bucket), keys, values, _pad(out, bucket), sums, True, scale
            )
            for whole, part in zip((dq, dk, dv), parts, strict=True):
                whole.index_copy_(0, bucket.tokens, _unpad(_shrink(part, whole), bucket))
        inside = prompt_k is None
        from_k, from_v = (k, v) if inside else (prompt_k, prompt_v)
        to_k, to_v = (dk, dv) if inside else (torch.zeros_like(prompt_k), torch.zeros_like(prompt_v))
        for p0, p1, r0, r1 in ctx.pieces.spans:
            keys, values = _expand(_one(from_k[p0:p1]), q), _expand(_one(from_v[p0:p1]), q)
            sums = lse[r0:r1].transpose(0, 1)[None]
            parts = _flash_backward(
                _one(grad[r0:r1]), _one(q[r0:r1]), keys, values, _one(out[r0:r1]), sums, False, scale
            )
            dq[r0:r1] += parts[0][0].transpose(0, 1)
            to_k[p0:p1] += _shrink(parts[1], to_k)[0].transpose(0, 1)
            to_v[p0:p1] += _shrink(parts[2], to_v)[0].transpose(0, 1)
        return dq, dk, dv, None if inside else to_k, None if inside else to_v, None, None


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
    if q.device.type == _KERNEL_DEVICE:
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
    if q.device.type == _KERNEL_DEVICE:
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
