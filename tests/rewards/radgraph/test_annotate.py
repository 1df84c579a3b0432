"""Annotating: what a text gets does not depend on its company, each text is done once, and nothing crashes."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.radgraph import Annotation, RadGraph, RadGraphMetric
from rewards.radgraph import cache as cache_module
from rewards.radgraph.cache import AnnotationCache
from rewards.radgraph.spans import Graph


class Counting:
    """In place of a model's network: what went through it, batch by batch."""

    def __init__(self, radgraph: RadGraph, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        plain = radgraph.model.forward

        def forward(texts) -> list[Graph]:
            self.batches.append(len(texts))
            return plain(texts)

        monkeypatch.setattr(radgraph.model, "forward", forward)


def test_an_annotation_is_the_same_alone_in_any_batch_and_in_any_order(archive: Path, reports: list[str]):
    alone = [RadGraph(archive, device="cpu", batch_tokens=1).annotate([report])[0] for report in reports[:20]]
    assert sum(len(annotation.entities) for annotation in alone) > 100
    for batch_tokens in (1, 200, 100_000):
        radgraph = RadGraph(archive, device="cpu", batch_tokens=batch_tokens)
        assert radgraph.annotate(reports[::-1])[::-1][:20] == alone


@pytest.mark.parametrize("level", ["radcliq", "simple", "partial", "complete"])
def test_the_score_of_a_pair_does_not_depend_on_the_others(archive: Path, reports: list[str], level):
    references, hypotheses = reports[:20], reports[1:21]
    together = RadGraphMetric(RadGraph(archive, device="cpu"), level).score_pairs(references, hypotheses)
    apart = RadGraphMetric(RadGraph(archive, device="cpu", batch_tokens=1), level)
    alone = [apart.score_pairs([a], [b])[0] for a, b in zip(references, hypotheses, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert any(0 < score < 1 for score in together)
    assert apart.score_pairs(references, references) == pytest.approx([1] * 20) or level == "radcliq"


def test_each_distinct_text_goes_through_the_network_once(archive: Path, reports: list[str], monkeypatch):
    radgraph = RadGraph(archive, device="cpu")
    seen = Counting(radgraph, monkeypatch)
    group = [reports[0]] * 8 + reports[1:5] * 2
    first = radgraph.annotate(group)
    assert sum(seen.batches) == 5
    assert radgraph.annotate(group[::-1]) == first[::-1]
    assert sum(seen.batches) == 5


def test_texts_of_like_length_share_batches_within_the_budget(archive: Path, reports: list[str], monkeypatch):
    radgraph = RadGraph(archive, device="cpu", batch_tokens=300)
    seen = Counting(radgraph, monkeypatch)
    radgraph.annotate(reports)
    sizes = [radgraph.model.encoder.tokens(text) for text in radgraph.pieces.cut([text.split() for text in reports])]
    assert sum(seen.batches) == len(reports)
    assert len(seen.batches) < 1.3 * sum(sizes) / 300 + 2


def test_memory_forgets_what_was_not_asked_for_the_longest(monkeypatch):
    monkeypatch.setattr(cache_module, "MAX_TEXTS", 2)
    cache = AnnotationCache(None)
    cache.put({"a": Annotation(), "b": Annotation()})
    cache.get(["a"])
    cache.put({"c": Annotation()})
    assert set(cache.get(["a", "b", "c"])) == {"a", "c"}


def test_a_later_process_reads_the_cache_instead_of_the_network(
    archive: Path, reports: list[str], tmp_path, monkeypatch
):
    first = RadGraph(archive, device="cpu", cache=tmp_path / "cache").annotate(reports[:5])
    later = RadGraph(archive, device="cpu", cache=tmp_path / "cache")
    seen = Counting(later, monkeypatch)
    assert later.annotate(reports[:5]) == first
    assert seen.batches == []
    later.annotate(reports[:6])
    assert seen.batches == [1]


def test_the_cache_of_another_model_or_precision_is_another_file(archive: Path, reports: list[str], tmp_path):
    RadGraph(archive, device="cpu", cache=tmp_path).annotate(reports[:1])
    RadGraph(archive, device="cpu", cache=tmp_path, dtype=torch.bfloat16).annotate(reports[:1])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_no_cache_is_refused_with_the_remedy(tmp_path: Path):
    (tmp_path / "file.sqlite").write_text("This is a text, and long enough to look like something." * 10)
    with pytest.raises(ValueError, match=r"file\.sqlite cannot be used: .*; delete it or name another folder"):
        AnnotationCache(tmp_path / "file.sqlite")


def test_two_processes_may_share_a_cache(tmp_path: Path):
    one, other = AnnotationCache(tmp_path / "a.sqlite"), AnnotationCache(tmp_path / "a.sqlite")
    one.put({"text": Annotation()})
    other.put({"text": Annotation(), "more": Annotation()})
    assert set(AnnotationCache(tmp_path / "a.sqlite").get(["text", "more"])) == {"text", "more"}
    assert sqlite3.connect(tmp_path / "a.sqlite").execute("SELECT count(*) FROM annotations").fetchone() == (2,)


def test_a_text_without_words_has_no_entities(radgraph: RadGraph):
    assert radgraph.annotate(["", "  \n\t "]) == [Annotation(), Annotation()]
    assert radgraph.annotate([]) == []


@pytest.mark.parametrize(
    "text",
    [
        "...!?", "/", "\x00\x01", "\u200b", "\ud800", "心臓は正常です。", "Сердце не увеличено", "🫁🫀", "a" * 10_000,
        "no edema. " * 1_000, "!" * 10_000, "(/" * 5_000, "é̂̃" * 3_000, "\u202e" + "x " * 5_000,
    ],
)  # fmt: skip
def test_nothing_that_a_model_writes_crashes_or_stalls(radgraph: RadGraph, reports: list[str], text: str):
    start = time.process_time()
    alone = radgraph.annotate([text])
    assert time.process_time() - start < 20
    assert RadGraphMetric(radgraph).score_pairs([reports[0]], [text])[0] <= 1
    assert all(0 <= entity.start <= entity.end for entity in alone[0].entities)


@settings(max_examples=25)
@given(st.lists(st.text(), max_size=4))
def test_any_text_is_annotated(radgraph: RadGraph, texts: list[str]):
    for text, annotation in zip(texts, radgraph.annotate(texts), strict=True):
        words = text.split()
        assert len(annotation.entities) <= 8 * max(1, len(text))
        assert words or not annotation.entities
        for entity in annotation.entities:
            assert all(0 <= relation.target < len(annotation.entities) for relation in entity.relations)


def test_words_after_the_limit_change_nothing(radgraph: RadGraph):
    text = "The heart is large. " * 300
    assert radgraph.annotate([text]) == radgraph.annotate([text + "No edema."])


def test_bfloat16_as_on_a_gpu_finds_nearly_the_same(archive: Path, radgraph: RadGraph, reports: list[str]):
    half = RadGraph(archive, device="cpu", dtype=torch.bfloat16)
    assert half.model.encoder.transformer.dtype == torch.bfloat16
    assert half.model.heads.width.weight.dtype == torch.float32
    scores = []
    for one, other in zip(radgraph.annotate(reports), half.annotate(reports), strict=True):
        both = {(entity.start, entity.end) for entity in one.entities}, {(e.start, e.end) for e in other.entities}
        scores.append(2 * len(both[0] & both[1]) / (len(both[0]) + len(both[1])))
    assert sum(scores) / len(scores) > 0.8


def test_the_metric_is_named_after_model_and_level(archive: Path, radgraph: RadGraph):
    assert RadGraphMetric(radgraph).name == "radgraph_f1"
    assert RadGraphMetric(radgraph, "partial").name == "radgraph_f1_partial"


def test_a_metric_refuses_an_unknown_level_and_sides_of_unequal_length(radgraph: RadGraph):
    with pytest.raises(ValueError, match="no level 'all'"):
        RadGraphMetric(radgraph, "all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 references for 2 hypotheses"):
        RadGraphMetric(radgraph).score_pairs(["a"], ["a", "b"])
