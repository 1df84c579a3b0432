"""The network of an archive with its weights.

What lives here: encoder and heads together, and the names of the archive's weights. What does not: either part's maths
(encoder.py, spans.py), and texts (annotate.py).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from rewards.radgraph.archive import Archive
from rewards.radgraph.encoder import WordEncoder
from rewards.radgraph.pieces import Pieces, WordPieces
from rewards.radgraph.spans import Graph, SpanHeads

UNUSED: Final = ("_coref.", "_events.", "encoder.transformer.pooler.", "encoder.transformer.embeddings.position_ids")
"""Beginnings of the names of weights that say nothing about entities or relations."""


class SpanModel(nn.Module):
    """Word pieces of some texts in, what was found in each out.

    Raises:
        OSError: the encoder's description is missing.
        ValueError: the weights are not those that the archive describes.
    """

    def __init__(self, archive: Archive, pieces: WordPieces) -> None:
        super().__init__()
        self.encoder = WordEncoder(archive, pieces)
        self.heads = SpanHeads(archive, self.encoder.dim)
        self._load(archive)
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, texts: Sequence[Pieces]) -> list[Graph]:
        """What is in each text."""
        return self.heads(self.encoder(texts), [len(text.words) for text in texts])

    def _load(self, archive: Archive) -> None:
        file = archive.folder / "weights.th"
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        named = {ours(name, archive.variant): weight for name, weight in weights.items()}
        used = {name: weight for name, weight in named.items() if not name.startswith(UNUSED)}
        try:
            self.load_state_dict(used)
        except RuntimeError as error:
            details = " ".join(str(error).split())
            raise ValueError(f"{file} does not fit the archive's config.json and encoder: {details}") from error


def ours(name: str, variant: str) -> str:
    """This package's name of a weight of a DyGIE++ archive; a name that it does not know stays as it is."""
    for theirs, mine in _NAMES:
        begin = theirs.format(ner=f"{variant}__ner_labels", relation=f"{variant}__relation_labels")
        if name.startswith(begin):
            return mine + name.removeprefix(begin)
    return name


_NAMES: Final = (
    ("_embedder.token_embedder_bert._matched_embedder.transformer_model.", "encoder.transformer."),
    ("_endpoint_span_extractor._span_width_embedding.", "heads.width."),
    ("_ner._ner_scorers.{ner}.0._module._linear_layers.", "heads.entity.hidden."),
    ("_ner._ner_scorers.{ner}.1._module.", "heads.entity.output."),
    ("_relation._mention_pruners.{relation}._scorer.0._module._linear_layers.", "heads.mention.hidden."),
    ("_relation._mention_pruners.{relation}._scorer.1._module.", "heads.mention.output."),
    ("_relation._relation_feedforwards.{relation}._linear_layers.", "heads.relation.hidden."),
    ("_relation._relation_scorers.{relation}.", "heads.relation.output."),
)
