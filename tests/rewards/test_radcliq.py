"""RadCliQ against its published check values, a scaler and regression by hand, and over tiny scorers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks._radgraph_archive import TINY, build_archive
from benchmarks._radgraph_reports import made_up
from rewards.chexbert import CheXbert, CheXbertSimilarity
from rewards.radcliq import CONSTANTS, VERSIONS, RadCliQ, Version, composite, worst
from rewards.radgraph import RadGraph, RadGraphMetric
from rewards.sample import Sample
from rewards.text.bertscore import BertScore
from rewards.text.bleu import Bleu2
from rewards.text.pair import PairMetric, PairReward
from tests.rewards.encoders import REPORTS as TEXTS
from tests.rewards.encoders import tiny_chexbert, tiny_roberta

feature = st.floats(-1, 1)
REPORTS = [*made_up(4), *TEXTS]


def test_check_values_of_the_publication():
    assert composite([1, 1, 1, 1], "v1") == pytest.approx(-1.4406902828047017, abs=1e-12)
    assert composite([0, 0, 0, 0], "v1") == pytest.approx(2.4501430833271307, abs=1e-12)
    assert composite([1, 1, 1, 1], "v0") == pytest.approx(-0.24213342294409346, abs=1e-12)
    assert composite([0, 0, 0, 0], "v0") == pytest.approx(5.516160804054495, abs=1e-12)


def test_constants_are_the_published_ones(shared_data: Path):
    published = json.loads((shared_data.parent / "radcliq.json").read_text())
    for version in VERSIONS:
        ours = CONSTANTS[version]
        assert list(ours.mean) == published[version]["mean"]
        assert list(ours.scale) == published[version]["scale"]
        assert list(ours.coefficient) == published[version]["coef"]
        assert ours.intercept == published[version]["intercept"]


@given(st.tuples(feature, feature, feature, feature), st.sampled_from(VERSIONS))
def test_is_a_regression_on_scaled_features(features: tuple[float, ...], version: Version):
    known = CONSTANTS[version]
    scaled = (np.array(features) - known.mean) / known.scale
    assert composite(features, version) == pytest.approx(float(scaled @ known.coefficient) + known.intercept, abs=1e-9)


def test_better_features_lower_it():
    for index in range(3):
        better = [0.5] * 4
        better[index] = 0.9
        assert all(composite(better, version) < composite([0.5] * 4, version) for version in VERSIONS)


def test_what_is_no_feature_vector_is_refused():
    with pytest.raises(ValueError, match="no version 'v2'"):
        composite([1, 1, 1, 1], "v2")  # type: ignore[arg-type]
    for features in ([1, 1, 1], [1, 1, 1, math.nan]):
        with pytest.raises(ValueError, match="4 finite numbers"):
            composite(features, "v1")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> list[PairMetric]:
    """The four features in order, over scorers with random weights."""
    folder = tmp_path_factory.mktemp("scorers")
    build_archive(folder / "radgraph", TINY, made_up(60))
    tiny_chexbert(folder / "chexbert")
    bertscore = BertScore(tiny_roberta(folder / "bertscore"), layers=5, baseline=0.1, device="cpu")
    chexbert = CheXbertSimilarity(CheXbert(folder / "chexbert", device="cpu"))
    return [RadGraphMetric(RadGraph(folder / "radgraph", device="cpu")), bertscore, chexbert, Bleu2()]


@pytest.fixture(scope="module")
def radcliq(metrics: list[PairMetric]) -> RadCliQ:
    first, second, third, fourth = metrics
    return RadCliQ("v1", radgraph=first, bertscore=second, chexbert=third, bleu=fourth)


def test_the_metric_is_the_composite_of_its_features(radcliq: RadCliQ, metrics: list[PairMetric]):
    references, hypotheses = [REPORTS[0]] * len(REPORTS), REPORTS
    columns = [metric.score_pairs(references, hypotheses) for metric in metrics]
    assert all(len(set(column)) > 2 for column in columns)
    expected = [composite(row, "v1") for row in zip(*columns, strict=True)]
    assert radcliq.score_pairs(references, hypotheses) == pytest.approx(expected, abs=1e-5)


def test_as_a_reward_it_is_negated_and_no_words_are_worse_than_any(radcliq: RadCliQ):
    reward = PairReward("radcliq_v1", radcliq, floor=-worst("v1"), sign=-1)
    texts = ["", "...", "<think>Is there fluid?", *REPORTS[:4], "é" * 10_000, "胸水なし"]
    values = [s.value for s in reward.score([Sample(text, (), True, (), target_text=REPORTS[0]) for text in texts])]
    assert values[:3] == [-worst("v1")] * 3
    assert values[3] == max(values) == pytest.approx(-radcliq.score_pairs(REPORTS[:1], REPORTS[:1])[0])
    assert min(values[3:]) > -worst("v1")


@pytest.fixture(scope="module")
def alone(radcliq: RadCliQ) -> dict[tuple[str, str], float]:
    return {(ref, hyp): radcliq.score_pairs([ref], [hyp])[0] for ref in REPORTS for hyp in REPORTS}


@settings(max_examples=15)
@given(batch=st.lists(st.tuples(st.sampled_from(REPORTS), st.sampled_from(REPORTS)), max_size=16))
def test_a_pair_scores_the_same_in_any_batch_and_order(
    radcliq: RadCliQ, alone: dict[tuple[str, str], float], batch: list[tuple[str, str]]
):
    scores = radcliq.score_pairs([ref for ref, _ in batch], [hyp for _, hyp in batch])
    assert scores == pytest.approx([alone[pair] for pair in batch], abs=1e-5)
