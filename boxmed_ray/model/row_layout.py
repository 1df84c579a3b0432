"""Where prompts and responses stand in one flat row of tokens without padding.

What lives here: lengths in, index tensors out. What does not: token ids, attention, models.

The row holds all prompts, then all responses, group by group:  [p1 p2 … pG | r11 … r1N | r21 … | rGN].  A prompt and
a response are each a *segment*. Everything that works on tokens one by one (projections, MLP, norms) runs on the row as
it is; attention looks inside a segment, and from a response back at its group's prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SHORT = 48
"""Segments up to this length share a bucket: padding them costs less than another kernel call."""
WASTE = 0.75
"""A bucket's shortest segment is at least this share of its longest."""


@dataclass(frozen=True)
class Bucket:
    """Segments of about one length, padded on the right to a rectangle.

    Attributes:
        rows: [S·L] rows of the tokens; padding repeats row 0, which a causal mask hides from every real token.
        count: S.
        length: L.
        cells: positions in the rectangle that hold tokens, None when all do.
        tokens: rows of those tokens (``rows[cells]``).
    """

    rows: Tensor
    count: int
    length: int
    cells: Tensor | None
    tokens: Tensor

    def to(self, device: torch.device) -> Bucket:
        """The same on another device."""
        cells = None if self.cells is None else self.cells.to(device)
        return Bucket(self.rows.to(device), self.count, self.length, cells, self.tokens.to(device))


def buckets(lengths: Sequence[int]) -> list[Bucket]:
    """Put consecutive segments of the given lengths (tokens; empty ones are skipped) into buckets."""
    starts, total = [], 0
    for length in lengths:
        starts.append(total)
        total += length
    order = sorted((index for index, length in enumerate(lengths) if length), key=lambda index: -lengths[index])
    result: list[Bucket] = []
    while order:
        longest = lengths[order[0]]
        take = [i for i in order if longest <= SHORT or lengths[i] >= WASTE * longest]
        result.append(_rectangle([starts[i] for i in sorted(take)], [lengths[i] for i in sorted(take)]))
        order = order[len(take) :]
    return result


def _rectangle(starts: list[int], lengths: list[int]) -> Bucket:
    length = max(lengths)
    steps = torch.arange(length)
    rows = torch.tensor(starts)[:, None] + steps
    real = steps < torch.tensor(lengths)[:, None]
    if bool(real.all()):
        rows = rows.flatten()
        return Bucket(rows, len(starts), length, None, rows)
    rows = rows.masked_fill(~real, 0).flatten()
    cells = real.flatten().nonzero()[:, 0]
    return Bucket(rows, len(starts), length, cells, rows[cells])


@dataclass(frozen=True)
class Pieces:
    """What attention needs to know about a row, or about the part of it that one pass runs.

    Attributes:
        lengths: tokens of every segment of this part, in the row's order (0 allowed).
        spans: for each group with response tokens (first prompt row, end, first response row, end). Prompt rows count
            from the first prompt token wherever those are; response rows count from the start of this part.
        before: prompt tokens that an earlier pass ran; their keys stand before this part's own.
        device: where index tensors are put.
    """

    lengths: tuple[int, ...]
    spans: tuple[tuple[int, int, int, int], ...]
    before: int
    device: torch.device

    @cached_property
    def segments(self) -> tuple[Bucket, ...]:
        """Every segment, in buckets."""
        return tuple(bucket.to(self.device) for bucket in buckets(self.lengths))


@dataclass(frozen=True)
class RowLayout:
    """A micro-batch of groups as one row.

    Attributes:
        prompt_lengths: P_g of each group.
        response_lengths: for each group the lengths of its segments after the prompt (0 allowed).
        device: where index tensors are put.
    """

    prompt_lengths: tuple[int, ...]
    response_lengths: tuple[tuple[int, ...], ...]
    device: torch.device

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(self.prompt_lengths)

    def whole(self) -> Pieces:
        """The row as one pass."""
        return Pieces((*self.prompt_lengths, *self._flat()), self._spans(self.prompt_tokens), 0, self.device)

    def prompts(self) -> Pieces:
        """The prompts alone."""
        return Pieces(self.prompt_lengths, (), 0, self.device)

    def responses(self) -> Pieces:
        """The responses alone, on top of prompts that ran before."""
        return Pieces(self._flat(), self._spans(0), self.prompt_tokens, self.device)

    def _flat(self) -> tuple[int, ...]:
        return tuple(length for lengths in self.response_lengths for length in lengths)

    def _spans(self, response: int) -> tuple[tuple[int, int, int, int], ...]:
        spans, prompt = [], 0
        for length, lengths in zip(self.prompt_lengths, self.response_lengths, strict=True):
            tokens = sum(lengths)
            if tokens:
                spans.append((prompt, prompt + length, response, response + tokens))
            prompt, response = prompt + length, response + tokens
        return tuple(spans)
