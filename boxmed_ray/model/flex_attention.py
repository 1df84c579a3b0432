"""Attention over a flat row in one kernel: torch's FlexAttention, which skips the blocks that a mask hides.

What lives here: what a row's tokens attend to as a mask, the mask's blocks, and the call. What does not: where segments
stand (row_layout.py), and the attention of devices that FlexAttention does not train on (segment_attention.py).

A token attends to two ranges of keys: its own segment up to itself, and, in a response, all of its group's prompt. Keys
stand as [prompts of an earlier pass | this pass]. FlexAttention (arXiv 2412.05496) wants to know which blocks of 128
queries by 128 keys hold any such pair and which hold nothing else. Both follow from how many keys of each block every
query attends to, so no [queries, keys] tensor is made, which torch's own ``create_block_mask`` would need.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from boxmed_ray.model.row_layout import Pieces

BLOCK = 128
"""Queries and keys of a block; what the kernels of FlexAttention are tuned for."""
NARROWEST = 16
"""Smallest head that the kernels multiply."""
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def suits(q: Tensor) -> bool:
    """Whether FlexAttention computes and trains q [T, H, d]: it has no gradient on the CPU and no float64 kernel."""
    return q.device.type == "cuda" and q.dtype in _TYPES and q.shape[-1] >= NARROWEST


def ranges(pieces: Pieces) -> Tensor:
    """[4, T] int32: the first and last + 1 of the keys in each token's own segment, then those in its prompt."""
    lengths = torch.tensor(pieces.lengths)
    first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    prompt = torch.zeros(2, len(first), dtype=torch.long)  # an empty range: prompts see themselves alone
    for start, end, begin, stop in pieces.spans:
        prompt[0, begin:stop], prompt[1, begin:stop] = start, end
    own = torch.stack([first, torch.arange(len(first)) + 1]) + pieces.before
    return torch.cat([own, prompt]).int()


def block_mask(pieces: Pieces) -> BlockMask:
    """The mask of this part of a row, for T queries by ``pieces.before`` + T keys, any batch and any head."""
    limits = ranges(pieces)
    tokens, keys = limits.shape[1], pieces.before + limits.shape[1]
    # Four tensors, not one: rows of one tensor do not start at the addresses that kernels load fastest from.
    start, end, prompt_start, prompt_end = (limit.to(pieces.device) for limit in limits)

    def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (key >= start[query]) & (key < end[query])
        return own | ((key >= prompt_start[query]) & (key < prompt_end[query]))

    edges = torch.arange(0, keys, BLOCK, dtype=torch.int32, device=pieces.device)
    pairs = _overlap(start, end, edges) + _overlap(prompt_start, prompt_end, edges)
    pairs = torch.nn.functional.pad(pairs, (0, 0, 0, -tokens % BLOCK)).view(-1, BLOCK, len(edges)).sum(1)
    whole = pairs == BLOCK * BLOCK
    counts, columns = _listed((pairs > 0) & ~whole)
    return BlockMask.from_kv_blocks(
        counts, columns, *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=attends, seq_lengths=(tokens, keys)
    )


def attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, scale: float) -> Tensor:
    """Attention of q [T, H, d] to k, v [keys, Hkv, d], keys in the mask's order; returns [T, H, d]."""
    query, key, value = (states.transpose(0, 1)[None] for states in (q, k, v))
    shared = q.shape[1] != k.shape[1]
    out = _kernel()(query, key, value, block_mask=mask, scale=scale, enable_gqa=shared, kernel_options=_OPTIONS)
    return out[0].transpose(0, 1)


_VARIANTS = 32
_OPTIONS = {"BACKEND": "TRITON"}  # one kernel for rows of all lengths, where AUTO has another for those below 128


@cache
def _kernel() -> Callable[..., Any]:
    """Compiled once a process: the first row gets kernels of its length, the second those for every length.

    With and without gradient, rows of a single block and of a single token count apart: about ten variants. Beyond
    torch's usual limit of 8 they would run uncompiled, with all scores in memory; beyond this one they are an error.
    """
    limits = {"fullgraph": True, "recompile_limit": _VARIANTS, "isolate_recompiles": True}
    return torch.compile(flex_attention, **limits)  # type: ignore[call-overload]  # its overloads lack two of these


def _overlap(start: Tensor, end: Tensor, edges: Tensor) -> Tensor:
    """[T, blocks] keys of the ranges ``start`` to ``end`` [T] in each block that begins at one of ``edges``."""
    return (torch.minimum(end[:, None], edges + BLOCK) - torch.maximum(start[:, None], edges)).clamp_(min=0)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, columns] bool → how many in each row [1, 1, rows], and their columns first [1, 1, rows, columns]."""
    columns = torch.argsort(blocks.int(), dim=1, descending=True, stable=True).int()
    return blocks.sum(1).int()[None, None], columns[None, None]
