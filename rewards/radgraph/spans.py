"""Entities and relations from the vectors of words: the heads of DyGIE++ (Wadden et al. 2019), for many texts at once.

What lives here: the maths of spans. What does not: where word vectors come from (encoder.py), and names of labels.

A span of words is the vectors of its first and last word and an embedding of its width, one after the other; a pair of
spans is both and their product. A first layer on such a row is a sum over its parts, so words are multiplied before
spans are formed and spans before pairs: that is exact, and what is left to do for each pair is the product. Scores are
taken against 0, the score of "nothing". Relations are scored between the best spans of each text, as many as the
archive says, and of those only between entities: the others have nowhere to go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewards.radgraph.archive import Archive

PAIRS_AT_ONCE: Final = 4096
"""Pairs of spans whose products are held at once, some 25 MB with an encoder of 768."""


class Head(nn.Module):
    """Hidden layers with ReLU, then a linear layer.

    Args:
        inputs: length of a row.
        hidden_dims: of each hidden layer, at least one.
        outputs: scores.
    """

    def __init__(self, inputs: int, hidden_dims: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((inputs, *hidden_dims)))
        self.output = nn.Linear(hidden_dims[-1], outputs)

    def first(self, *parts: int) -> tuple[Tensor, ...]:
        """The first layer's weights for each part of a row, transposed, and its bias."""
        layer = self.hidden[0]
        assert isinstance(layer, nn.Linear)
        return *(part.T for part in layer.weight.split(parts, dim=1)), layer.bias

    def forward(self, first: Tensor) -> Tensor:
        """Scores from what the first layer gives: [n, hidden] → [n, outputs]."""
        hidden = F.relu(first)
        for layer in self.hidden[1:]:
            hidden = F.relu(layer(hidden))
        return self.output(hidden)


class Spans(NamedTuple):
    """Spans of all texts by text, then first word, then last: index of the text and of both words, each [n]."""

    text: Tensor
    start: Tensor
    end: Tensor


@dataclass(frozen=True, slots=True)
class Graph:
    """What was found in one text.

    Attributes:
        entities: (first word, last word, label), words counted inside the text.
        relations: (subject, object, label), both indices into ``entities``.
    """

    entities: list[tuple[int, int, int]]
    relations: list[tuple[int, int, int]]


class SpanHeads(nn.Module):
    """The heads of an archive's model.

    Args:
        archive: says their shape.
        word_dim: length of a word's vector.
    """

    def __init__(self, archive: Archive, word_dim: int) -> None:
        super().__init__()
        self._parts = (word_dim, word_dim, archive.feature_size)
        self._spans_per_word = archive.spans_per_word
        span_dim, hidden = sum(self._parts), archive.hidden_dims
        self.width = nn.Embedding(archive.max_span_width, archive.feature_size)
        self.entity = Head(span_dim, hidden, len(archive.entity_labels))
        self.mention = Head(span_dim, hidden, 1)
        self.relation = Head(3 * span_dim, hidden, len(archive.relation_labels))

    def forward(self, words: Tensor, lengths: list[int]) -> list[Graph]:
        """What is in each text.

        Args:
            words: vectors of the words of all texts in a row, [Σ lengths, word_dim].
            lengths: words of each text; 0 is allowed.
        """
        sizes = torch.tensor(lengths, dtype=torch.long, device=words.device)
        spans = enumerate_spans(sizes, self.width.num_embeddings)
        label = best_label(self.of_spans(self.entity, words, spans))
        mention = self.of_spans(self.mention, words, spans)[:, 0]
        quota = (sizes * self._spans_per_word).ceil().long()
        related = (best_of_each(mention, spans.text, quota) & (label > 0)).nonzero()[:, 0]
        relations = []
        for subject, target, scores in self.of_pairs(words, Spans(*(part[related] for part in spans))):
            one, other = related[subject], related[target]
            kind = best_label(scores + (mention[one] + mention[other])[:, None])
            relations.append(torch.stack((one, other, kind), dim=1)[kind > 0])
        return _graphs(sizes, spans, label, torch.cat(relations))

    def of_spans(self, head: Head, words: Tensor, spans: Spans) -> Tensor:
        """Scores of every span: [words, word_dim] → [spans, outputs]."""
        start, end, width, bias = head.first(*self._parts)
        widths = self.width.weight @ width + bias
        return head((words @ start)[spans.start] + (words @ end)[spans.end] + widths[spans.end - spans.start])

    def of_pairs(self, words: Tensor, spans: Spans) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Scores of every ordered pair of spans of one text, some thousand pairs at a time, mentions not yet counted.

        Yields subject and object, as indices into ``spans``, [pairs], and scores, [pairs, relation labels].
        """
        rows = torch.cat((words[spans.start], words[spans.end], self.width.weight[spans.end - spans.start]), dim=1)
        one, other, product, bias = self.relation.first(*(rows.shape[1],) * 3)
        one, other = rows @ one + bias, rows @ other
        subjects, targets = pairs_of_one_text(spans.text)
        for subject, target in zip(subjects.split(PAIRS_AT_ONCE), targets.split(PAIRS_AT_ONCE), strict=True):
            first = (rows[subject] * rows[target]) @ product + one[subject] + other[target]
            yield subject, target, self.relation(first)


def best_label(scores: Tensor) -> Tensor:
    """0 where no score is above 0, else 1 + the index of the highest: [n, labels] → [n]."""
    return F.pad(scores, (1, 0)).argmax(dim=1)


def enumerate_spans(lengths: Tensor, max_width: int) -> Spans:
    """All spans of up to ``max_width`` words inside texts of ``lengths`` words that stand in a row."""
    text = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    start = torch.arange(len(text), device=lengths.device)
    end = start[:, None] + torch.arange(max_width, device=lengths.device)
    inside = end < lengths.cumsum(0)[text][:, None]
    return Spans(text[:, None].expand_as(end)[inside], start[:, None].expand_as(end)[inside], end[inside])


def best_of_each(scores: Tensor, group: Tensor, quota: Tensor) -> Tensor:
    """Whether each item is among the ``quota`` highest of its group.

    Args:
        scores: [n].
        group: of each item, ascending, [n].
        quota: of each group, [groups].
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    sizes = torch.bincount(group, minlength=len(quota))
    rank = torch.arange(len(scores), device=scores.device) - (sizes.cumsum(0) - sizes)[group]
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[order] = rank < quota[group]
    return kept


def pairs_of_one_text(text: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of all ordered pairs, also of an item with itself, of equal ``text`` (ascending, [n])."""
    sizes = torch.bincount(text)
    partners = sizes[text]
    first = torch.arange(len(text), device=text.device).repeat_interleave(partners)
    row = (partners.cumsum(0) - partners)[first]
    second = torch.arange(len(first), device=text.device) - row + (sizes.cumsum(0) - sizes)[text][first]
    return first, second


def _graphs(sizes: Tensor, spans: Spans, label: Tensor, relations: Tensor) -> list[Graph]:
    """Sort what was found by text: label of every span, and subject, object and label of relations."""
    is_entity = label > 0
    counts = torch.bincount(spans.text[is_entity], minlength=len(sizes))
    index = is_entity.cumsum(0) - 1 - (counts.cumsum(0) - counts)[spans.text]
    offset = (sizes.cumsum(0) - sizes)[spans.text]
    graphs = [Graph([], []) for _ in sizes]
    entities = torch.stack((spans.text, spans.start - offset, spans.end - offset, label - 1), dim=1)
    for text, start, end, kind in entities[is_entity].tolist():
        graphs[text].entities.append((start, end, kind))
    subject, target, kind = relations.unbind(dim=1)
    for text, one, other, name in torch.stack(
        (spans.text[subject], index[subject], index[target], kind - 1), 1
    ).tolist():
        graphs[text].relations.append((one, other, name))
    return graphs
