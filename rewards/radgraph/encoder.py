"""Vectors of words from the text encoder, for many texts at once.

What lives here: windows, padding, and the mean over a word's pieces. What does not: which texts share a batch
(annotate.py).

A text longer than the encoder takes is cut into windows of as many pieces as fit beside the two special ones, wherever
that falls, and each window is encoded by itself: that is what AllenNLP does, and so the ``radgraph`` package.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from rewards.radgraph.archive import Archive
from rewards.radgraph.pieces import Pieces, WordPieces, encoder_missing


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
        self.transformer = AutoModel.from_config(config, attn_implementation="sdpa")
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
        longest = max(map(len, windows)) + 2
        first, last, padding = self._pieces.first, self._pieces.last, self._pieces.padding
        rows = [[first, *window, last] + [padding] * (longest - 2 - len(window)) for window in windows]
        lengths = torch.tensor([len(window) for window in windows])[:, None]
        place = torch.arange(longest)
        hidden = self.transformer(
            input_ids=torch.tensor(rows, device=device), attention_mask=(place < lengths + 2).long().to(device)
        ).last_hidden_state
        return hidden[((place > 0) & (place <= lengths)).to(device)].float()
