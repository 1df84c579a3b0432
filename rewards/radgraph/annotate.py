"""Texts to annotations, each distinct text once.

What lives here: what is still to do, which texts share a batch, and the words of what was found. What does not: the
network (model.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from rewards.radgraph.annotation import Annotation, Entity, Relation
from rewards.radgraph.archive import Archive, read_archive
from rewards.radgraph.cache import AnnotationCache
from rewards.radgraph.model import SpanModel
from rewards.radgraph.packed import pack
from rewards.radgraph.pieces import Pieces, WordPieces
from rewards.radgraph.spans import Graph
from rewards.radgraph.words import VARIANTS, Variant, words_of

RULES: Final = "1"
"""Changes when the same archive annotates the same text differently; part of a cache's name."""
_BATCH_TOKENS: Final = {"cpu": 512, "cuda": 32_768}


class RadGraph:
    """A published RadGraph model.

    Args:
        folder: the archive, unpacked or as the ``.tar.gz`` it is downloaded as.
        variant: which of the published models it holds.
        device: a GPU where there is one, otherwise the CPU.
        batch_tokens: word pieces that are encoded at once; a longer text goes alone. Default: 512
            on a CPU, whose caches hold no more, and 32,768 on a GPU.
        cache: folder to keep annotations in, for other processes and later runs.
        dtype: of the encoder; bfloat16 on a GPU, float32 on a CPU. The heads are float32 everywhere.

    Raises:
        FileNotFoundError, OSError, ValueError: the archive, or the encoder it names, is missing or of another kind.
    """

    def __init__(
        self,
        folder: Path,
        *,
        variant: Variant = "radgraph",
        device: torch.device | str | None = None,
        batch_tokens: int | None = None,
        cache: Path | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"there is no RadGraph model {variant!r}; use one of: {', '.join(VARIANTS)}")
        self.archive: Archive = read_archive(folder, variant)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
        self.pieces = WordPieces(self.archive)
        self.model = SpanModel(self.archive, self.pieces)
        self.model.encoder.to(place, dtype)
        self.model.heads.to(place)
        if (place.type, dtype) == ("cpu", torch.float32):
            pack(self.model.encoder)
        self._batch_tokens = batch_tokens or _BATCH_TOKENS.get(place.type, _BATCH_TOKENS["cuda"])
        self._cache = AnnotationCache(None if cache is None else cache / self._cache_name(dtype))

    @property
    def variant(self) -> Variant:
        """Which of the published models this is."""
        return self.archive.variant

    def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        """The annotation of each text, in order. A text without words has no entities."""
        distinct = dict.fromkeys(texts)
        known = self._cache.get(distinct)
        made = self._make([text for text in distinct if text not in known])
        self._cache.put(made)
        return [known[text] if text in known else made[text] for text in texts]

    def _cache_name(self, dtype: torch.dtype) -> str:
        return f"radgraph-{RULES}-{str(dtype).removeprefix('torch.')}-{self.archive.digest()[:16]}.sqlite"

    def _make(self, texts: Sequence[str]) -> dict[str, Annotation]:
        pieces = self.pieces.cut([words_of(text, self.variant) for text in texts])
        made: dict[str, Annotation] = {}
        for batch in self._batches(pieces):
            graphs = self.model([pieces[index] for index in batch])
            for index, graph in zip(batch, graphs, strict=True):
                made[texts[index]] = self._annotation(pieces[index].words, graph)
        return made

    def _batches(self, texts: Sequence[Pieces]) -> Iterator[list[int]]:
        """Indices of texts of like length, longest first. Attention alone is padded, to twice the budget at most."""
        sizes = [self.model.encoder.tokens(text) for text in texts]
        batch: list[int] = []
        tokens = 0
        for index in sorted(range(len(texts)), key=lambda index: -sizes[index]):
            padded = (len(batch) + 1) * sizes[batch[0]] if batch else 0
            if batch and max(tokens + sizes[index], padded / 2) > self._batch_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(index)
            tokens += sizes[index]
        if batch:
            yield batch

    def _annotation(self, words: Sequence[str], graph: Graph) -> Annotation:
        relations: list[list[Relation]] = [[] for _ in graph.entities]
        for subject, target, label in graph.relations:
            relations[subject].append(Relation(self.archive.relation_labels[label], target))
        return Annotation(
            tuple(
                Entity(" ".join(words[start : end + 1]), self.archive.entity_labels[label], start, end, tuple(starting))
                for (start, end, label), starting in zip(graph.entities, relations, strict=True)
            )
        )
