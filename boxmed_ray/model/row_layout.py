"""Where prompts and responses stand in one flat row of tokens without padding.

What lives here: lengths in, index tensors out. What does not: token ids, attention, models.

The row holds all prompts, then all responses, group by group:  [p1 p2 … pG | r11 … r1N | r21 … | rGN].  A prompt and
a response are each a *segment*. Everything that works on tokens one by one (projections, MLP, norms) runs on the row as
it is; attention looks inside a segment, and from a response back at its group's prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
class RowLayout:
    """A micro-batch of groups as one row.

    Attributes:
        prompt_lengths: P_g of each group.
        response_lengths: for each group the lengths of its segments after the prompt (0 allowed).
        prompts: buckets over the prompts' rows.
        responses: buckets over the responses' rows, counted from the first response token.
        spans: for each group with response tokens (first prompt row, end, first response row, end), the latter
            counted from the first response token.
    """

    prompt_lengths: tuple[int, ...]
    response_lengths: tuple[tuple[int, ...], ...]
    prompts: tuple[Bucket, ...]
    responses: tuple[Bucket, ...]
    spans: tuple[tuple[int, int, int, int], ...]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(self.prompt_lengths)

    @property
    def response_tokens(self) -> int:
        """Tokens of all responses in the row."""
        return sum(map(sum, self.response_lengths))


def lay_out(
    prompt_lengths: Sequence[int], response_lengths: Sequence[Sequence[int]], device: torch.device
) -> RowLayout:
    """Lay out groups of one prompt and its responses (lengths in tokens)."""
    spans, prompt, response = [], 0, 0
    for length, lengths in zip(prompt_lengths, response_lengths, strict=True):
        tokens = sum(lengths)
        if tokens:
            spans.append((prompt, prompt + length, response, response + tokens))
        prompt, response = prompt + length, response + tokens
    flat = [length for lengths in response_lengths for length in lengths]
    return RowLayout(
        prompt_lengths=tuple(prompt_lengths),
        response_lengths=tuple(tuple(lengths) for lengths in response_lengths),
        prompts=tuple(bucket.to(device) for bucket in buckets(prompt_lengths)),
        responses=tuple(bucket.to(device) for bucket in buckets(flat)),
        spans=tuple(spans),
    )
