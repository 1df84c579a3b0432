"""Token lists of uneven length as padded batches for an encoder.

What lives here: the batches. What does not: encoders and tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOKENS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Some of the token lists.

    Attributes:
        rows: which they are.
        ids: (rows, longest), padded on the right.
        mask: (rows, longest), 1 for a token and 0 for padding.
    """

    rows: tuple[int, ...]
    ids: Tensor
    mask: Tensor


def token_batches(tokens: Sequence[Sequence[int]], pad: int) -> Iterator[TokenBatch]:
    """Every list once, longest first, lists of like length together; TOKENS_AT_ONCE a batch, or one list."""
    batch: list[int] = []
    for row in sorted(range(len(tokens)), key=lambda row: -len(tokens[row])):
        if batch and len(tokens[batch[0]]) * (len(batch) + 1) > TOKENS_AT_ONCE:
            yield _padded(batch, tokens, pad)
            batch = []
        batch.append(row)
    if batch:
        yield _padded(batch, tokens, pad)


def _padded(rows: Sequence[int], tokens: Sequence[Sequence[int]], pad: int) -> TokenBatch:
    ids = torch.full((len(rows), len(tokens[rows[0]])), pad)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(tokens[row])] = torch.tensor(tokens[row])
        mask[place, : len(tokens[row])] = 1
    return TokenBatch(tuple(rows), ids, mask)
