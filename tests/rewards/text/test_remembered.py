"""A remembered pair is not scored again, and memory changes no score."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.text.bleu import Bleu2
from rewards.text.remembered import Remembered


class Counting(Bleu2):
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        self.asked += zip(references, hypotheses, strict=True)
        return super().score_pairs(references, hypotheses)


def test_each_distinct_pair_is_scored_once() -> None:
    metric = Counting()
    remembered = Remembered(metric)
    references, hypotheses = ["a b", "a b", "ab", "a b"], ["a c", "a c", "a c", "a b"]
    scores = remembered.score_pairs(references, hypotheses)
    assert scores == Bleu2().score_pairs(references, hypotheses)
    assert metric.asked == [("a b", "a c"), ("ab", "a c"), ("a b", "a b")]
    assert remembered.score_pairs(references[::-1], hypotheses[::-1]) == scores[::-1]
    assert len(metric.asked) == 3
    assert remembered.name == "bleu_2"
    remembered.forget()
    assert remembered.score_pairs(references, hypotheses) == scores
    assert len(metric.asked) == 6


def test_what_was_asked_for_longest_ago_is_forgotten() -> None:
    metric = Counting()
    remembered = Remembered(metric, pairs=2)
    for hypothesis in ("a", "b", "a", "c", "a", "b"):
        remembered.score_pairs(["x"], [hypothesis])
    assert [hypothesis for _, hypothesis in metric.asked] == ["a", "b", "c", "b"]


def test_a_call_larger_than_the_memory_is_whole() -> None:
    texts = [f"word {i}" for i in range(9)]
    assert Remembered(Bleu2(), pairs=2).score_pairs(texts, texts) == [1.0] * 9


def test_where_a_pair_is_cut_matters_and_any_text_is_a_key() -> None:
    metric = Counting()
    Remembered(metric).score_pairs(["ab", "a", "\ud800"], ["c", "bc", "\ud800"])
    assert len(metric.asked) == 3
