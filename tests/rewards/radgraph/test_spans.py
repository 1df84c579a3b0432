"""The maths of spans against loops that do it one span and one pair at a time, as the formulas are written."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rewards.radgraph import RadGraph
from rewards.radgraph import spans as module
from rewards.radgraph.spans import (
    Graph,
    Head,
    SpanHeads,
    best_label,
    best_of_each,
    enumerate_spans,
    pairs_of_one_text,
)

lengths = st.lists(st.integers(0, 6), min_size=1, max_size=5)


@given(lengths, st.integers(1, 4))
def test_spans_are_all_runs_of_words_inside_a_text(sizes: list[int], width: int):
    expected, offset = [], 0
    for text, size in enumerate(sizes):
        expected += [
            (text, offset + start, offset + end)
            for start in range(size)
            for end in range(start, min(start + width, size))
        ]
        offset += size
    found = torch.stack(enumerate_spans(torch.tensor(sizes), width), dim=1)
    assert [tuple(row) for row in found.tolist()] == expected


@given(st.lists(st.lists(st.integers(-50, 50), unique=True, max_size=8), min_size=1, max_size=4), st.integers(0, 9))
def test_the_best_of_each_text_are_kept(scores: list[list[int]], quota: int):
    flat = torch.tensor([score for group in scores for score in group], dtype=torch.float)
    group = torch.tensor([index for index, group in enumerate(scores) for _ in group], dtype=torch.long)
    expected = [score in sorted(group, reverse=True)[:quota] for group in scores for score in group]
    assert best_of_each(flat, group, torch.full((len(scores),), quota)).tolist() == expected


@given(lengths)
def test_pairs_are_all_ordered_pairs_of_one_text(sizes: list[int]):
    text = [index for index, size in enumerate(sizes) for _ in range(size)]
    expected = [(i, j) for i in range(len(text)) for j in range(len(text)) if text[i] == text[j]]
    first, second = pairs_of_one_text(torch.tensor(text, dtype=torch.long))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected


def test_a_label_needs_a_score_above_0():
    assert best_label(torch.tensor([[-1.0, -2.0], [-1.0, 0.5], [3.0, 0.5]])).tolist() == [0, 2, 1]


def test_heads_find_what_a_loop_over_every_span_and_pair_finds(radgraph: RadGraph, reports: list[str], monkeypatch):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 5)
    heads, encoder = radgraph.model.heads, radgraph.model.encoder
    texts = radgraph.pieces.cut([report.split() for report in (*reports[:6], "", "edema")])
    sizes = [len(text.words) for text in texts]
    with torch.inference_mode():
        words = encoder(texts)
        found = heads(words, sizes)
        expected = [one_by_one(heads, vectors) for vectors in words.split(sizes)]
    assert found == expected
    assert sum(len(graph.entities) for graph in found) > 50
    assert sum(len(graph.relations) for graph in found) > 10


def one_by_one(heads: SpanHeads, words: Tensor) -> Graph:
    spans = [(start, end) for start in range(len(words)) for end in range(start, min(start + 8, len(words)))]
    rows = {(a, b): torch.cat((words[a], words[b], heads.width.weight[b - a])) for a, b in spans}
    labels = {span: label(plain(heads.entity, row)) for span, row in rows.items()}
    mention = {span: plain(heads.mention, row) for span, row in rows.items()}
    kept = sorted(spans, key=lambda span: -float(mention[span]))[: -(-len(words) // 2)]
    entities = [span for span in spans if labels[span]]
    relations = []
    for one in entities:
        for other in entities:
            if one in kept and other in kept:
                row = torch.cat((rows[one], rows[other], rows[one] * rows[other]))
                kind = label(plain(heads.relation, row) + mention[one] + mention[other])
                relations += [(entities.index(one), entities.index(other), kind - 1)] if kind else []
    return Graph([(a, b, labels[a, b] - 1) for a, b in entities], relations)


def plain(head: Head, row: Tensor) -> Tensor:
    for layer in head.hidden:
        row = F.relu(layer(row))
    return head.output(row)


def label(scores: Tensor) -> int:
    return int(scores.argmax()) + 1 if float(scores.max()) > 0 else 0


def test_a_span_never_leaves_its_text(radgraph: RadGraph):
    [first, second] = radgraph.annotate(["The heart is normal", "in size No edema"])
    assert all(entity.end < 4 for entity in (*first.entities, *second.entities))


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]])
def test_nothing_gives_nothing(radgraph: RadGraph, sizes: list[int]):
    with torch.inference_mode():
        assert radgraph.model.heads(torch.zeros(0, 32), sizes) == [Graph([], []) for _ in sizes]
