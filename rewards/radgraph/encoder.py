"""Vectors of words from the text encoder, for many texts at once.

What lives here: windows, their attention, and the mean over a word's pieces. What does not: which texts share a batch
(annotate.py).

A text longer than the encoder takes is cut into windows of as many pieces as fit beside the two special ones, wherever
that falls, and each window is encoded by itself: that is what AllenNLP does, and so the ``radgraph`` package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rewards.radgraph.archive import Archive
from rewards.radgraph.pieces import Pieces, WordPieces, encoder_missing

ATTENTION: Final = "radgraph_windows"
"""Name under which transformers knows the attention of this module."""


class WordEncoder(nn.Module):
    """The encoder of an archive, without its weights.

    Raises:
        OSError: the encoder's ``config.json`` can be had neither from the archive nor from the Hub.
    """

    def __init__(self, archive: Archive, pieces: WordPieces) -> None:
        super().__init__()
        try:
            config = AutoConfig.from_pretrained(archive.encoder)
        except (OSError, ValueError) as error:
            raise encoder_missing(archive, "config.json") from error
        self.transformer = AutoModel.from_config(config, attn_implementation=ATTENTION)
        self.transformer.pooler = None
        self.dim: int = config.hidden_size
        self.window = archive.max_length - 2
        self._pieces = pieces

    def tokens(self, text: Pieces) -> int:
        """Tokens that a text takes when nothing is padded."""
        return len(text.ids) + 2 * -(-len(text.ids) // self.window)

    def forward(self, texts: Sequence[Pieces]) -> Tensor:
        """Vectors of the words of all texts in a row, float32, [words, dim]; a word without pieces is 0."""
        windows = [text.ids[at : at + self.window] for text in texts for at in range(0, len(text.ids), self.window)]
        device = next(self.transformer.parameters()).device
        counts = torch.tensor([count for text in texts for count in text.counts], device=device, dtype=torch.long)
        total = torch.zeros(len(counts), self.dim, device=device)
        if windows:
            word = torch.arange(len(counts), device=device).repeat_interleave(counts)
            total.index_add_(0, word, self._encode(windows, device))
        return total / counts.clamp(min=1)[:, None]

    def _encode(self, windows: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
        """Vectors of the pieces of all windows in a row, float32, [pieces, dim]."""
        layout = Layout([len(window) + 2 for window in windows], device)
        row = [piece for window in windows for piece in (self._pieces.first, *window, self._pieces.last)]
        ids = torch.tensor([row], device=device)
        hidden = self.transformer(
            input_ids=ids, position_ids=layout.place[None], token_type_ids=torch.zeros_like(ids), layout=layout
        ).last_hidden_state[0]
        return hidden[layout.inner].float()


class Layout:
    """Where windows stand in a row without padding, and in a padded rectangle.

    Only attention needs the rectangle; all else in the encoder, which is nearly all of its work, is done on the row.

    Args:
        sizes: tokens of each window, the two special ones included.
        device: of the tensors.

    Attributes:
        place: of each token of the row in its window, [tokens].
        inner: whether a token is not the first or last of its window, [tokens].
        token: of the row at each place of the rectangle, any at padding, [windows, longest].
        real: whether a place of the rectangle is a token, [windows, longest].
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        lengths = torch.tensor(sizes, device=device)[:, None]
        column = torch.arange(max(sizes), device=device)
        self.real = column < lengths
        self.token = ((lengths.cumsum(0) - lengths) + column).where(self.real, 0)
        self.place = column.expand_as(self.real)[self.real]
        self.inner = ((column > 0) & (column < lengths - 1))[self.real]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Attention of every window to itself: three times [1, heads, tokens, d] → [1, tokens, heads, d]."""
        q, k, v = (part[0].transpose(0, 1)[self.token].transpose(1, 2) for part in (query, key, value))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=self.real[:, None, None], scale=scale)
        return found.transpose(1, 2)[self.real][None]


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What every attention layer calls in place of its own."""
    return layout.attend(query, key, value, scaling), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention_forward)
