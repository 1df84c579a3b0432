"""BERTScore against the package bert-score, on tiny RoBERTa and on MiniLM, and its independence of the batch."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from bert_score import BERTScorer
from bert_score.utils import get_idf_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.scorers import minilm_folder
from rewards.text.bertscore import BertScore
from tests.rewards.encoders import CORPUS, REPORTS, tiny_roberta

PAIRS = [(ref, hyp) for ref in REPORTS for hyp in REPORTS]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_roberta(tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="module")
def minilm() -> Path:
    return minilm_folder()


def theirs(scorer: BERTScorer, pairs: list[tuple[str, str]]) -> list[float]:
    # One pair a call: in a batch the package lets padding, similarity 0, win over negative similarities.
    return [float(scorer.score([hyp], [ref])[2][0]) for ref, hyp in pairs]


@pytest.mark.parametrize(("fixture", "layers"), [("roberta", 5), ("roberta", 2), ("minilm", 6)])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_package(fixture: str, layers: int, weighted: bool, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(fixture)
    scorer = BERTScorer(model_type=str(folder), num_layers=layers, idf=weighted, device="cpu")
    if weighted:
        scorer._idf_dict = get_idf_dict(CORPUS, scorer._tokenizer, nthreads=0)  # compute_idf starts processes
    ours = BertScore(folder, layers=layers, idf_corpus=CORPUS if weighted else None, device="cpu")
    pairs = PAIRS if fixture == "roberta" else [pair for pair in PAIRS[::5] if max(map(len, pair)) < 100]
    assert ours.score_pairs(*map(list, zip(*pairs, strict=True))) == pytest.approx(theirs(scorer, pairs), abs=1e-5)


def test_rescaling_equals_the_package(roberta: Path, tmp_path: Path):
    table = tmp_path / "baseline.tsv"
    table.write_text("LAYER,P,R,F\n" + "\n".join(f"{layer},0.1,0.2,{0.04 * layer}" for layer in range(7)))
    scorer = BERTScorer(
        model_type=str(roberta), num_layers=5, rescale_with_baseline=True, lang="en", baseline_path=str(table)
    )
    ours = BertScore(roberta, layers=5, baseline=0.2, device="cpu")
    assert ours.score_pairs(*map(list, zip(*PAIRS, strict=True))) == pytest.approx(theirs(scorer, PAIRS), abs=1e-5)


@pytest.fixture(scope="module")
def alone(roberta: Path) -> tuple[BertScore, dict[tuple[str, str], float]]:
    metric = BertScore(roberta, layers=5, idf_corpus=CORPUS, device="cpu")
    return metric, {(ref, hyp): metric.score_pairs([ref], [hyp])[0] for ref, hyp in PAIRS}


@settings(max_examples=25)
@given(st.lists(st.sampled_from(PAIRS), min_size=1, max_size=30))
def test_a_pair_scores_the_same_in_any_batch_and_order(alone: Any, batch: list[tuple[str, str]]):
    metric, known = alone
    scores = metric.score_pairs([ref for ref, _ in batch], [hyp for _, hyp in batch])
    assert scores == pytest.approx([known[pair] for pair in batch], abs=1e-5)


def test_each_distinct_text_is_embedded_once(roberta: Path, monkeypatch: pytest.MonkeyPatch):
    metric = BertScore(roberta, layers=5, device="cpu")
    rows = []
    forward = metric._model.forward
    monkeypatch.setattr(metric._model, "forward", lambda ids, **kw: rows.append(len(ids)) or forward(ids, **kw))
    pairs = PAIRS * 3
    random.Random(0).shuffle(pairs)
    metric.score_pairs([ref for ref, _ in pairs], [hyp for _, hyp in pairs])
    assert sum(rows) == len(REPORTS)


def test_the_same_text_is_1_and_no_text_is_0(minilm: Path):
    metric = BertScore(minilm, layers=6, device="cpu")
    assert metric.score_pairs(["No effusion."], ["No effusion."]) == pytest.approx([1], abs=1e-5)
    assert metric.score_pairs(["No effusion.", "", "", " "], ["", "No effusion.", "", "\n"]) == [0, 0, 0, 0]
    assert metric.score_pairs([], []) == []


def test_words_that_no_document_weighs_score_0(minilm: Path):
    metric = BertScore(minilm, layers=6, idf_corpus=["effusion"], device="cpu")
    assert metric.score_pairs(["effusion"], ["effusion"]) == [0]


def test_what_cannot_score_is_refused(roberta: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="6 layers, not 7"):
        BertScore(roberta, layers=7)
    with pytest.raises(ValueError, match="corpus of IDF weights is empty"):
        BertScore(roberta, layers=5, idf_corpus=[])
    with pytest.raises((OSError, ValueError), match=str(tmp_path)):
        BertScore(tmp_path, layers=5)
    with pytest.raises(ValueError, match="2 references and 1 hypotheses"):
        BertScore(roberta, layers=5).score_pairs(["a", "b"], ["a"])


def test_weights_of_a_single_reference_are_not_all_zero(roberta: Path):
    """IDF over the references of a call is 0 for every word when there is one reference, as in a GRPO group."""
    metric = BertScore(roberta, layers=5, idf_corpus=CORPUS, device="cpu")
    [score] = metric.score_pairs([CORPUS[0]], [CORPUS[0]])
    assert score == pytest.approx(1, abs=1e-5)
    assert float(metric._weights(metric._tokens(CORPUS[0])).sum()) == pytest.approx(1)
