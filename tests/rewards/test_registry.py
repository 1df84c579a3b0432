"""Names, weights, users' functions, and what happens when a scorer fails."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.registry import REWARDS, build
from rewards.sample import Sample, Score

BOX = (0.0, 0.0, 10.0, 10.0)
GOOD = Sample("good", (BOX,), True, (BOX,), "no effusion is seen .")
BAD = Sample("bad", None, False, (BOX,), "no effusion is seen .")

OFFLINE = (
    *(name for name in REWARDS if name != "joint_radcliq_v1"),
    "clinical_lite",
    "bleu_2",
    "entity_f1",
    "entity_precision",
)
"""Rewards that need no download; the others are in test_scorers.py."""

coordinate = st.floats(allow_nan=True, allow_infinity=True)
boxes = st.lists(st.tuples(*[coordinate] * 4), max_size=70).map(tuple)
samples = st.builds(
    Sample,
    text=st.text(max_size=300),
    boxes=st.none() | boxes,
    well_formed=st.booleans(),
    target_boxes=st.lists(st.tuples(*[st.floats(0, 1000)] * 4), max_size=4).map(tuple),
    target_text=st.none() | st.text(max_size=200),
    truncated=st.booleans(),
)


def text_length(batch: Sequence[Sample]) -> list[float]:
    return [len(sample.text) for sample in batch]


def detailed(batch: Sequence[Sample]) -> list[Score]:
    return [Score(1.0, {"part": 0.5}, frozenset({"empty"})) for _ in batch]


def fails_on_bad(batch: Sequence[Sample]) -> list[float]:
    if any(sample.text == "bad" for sample in batch):
        raise RuntimeError("cannot read this")
    return [1.0] * len(batch)


def not_a_number(batch: Sequence[Sample]) -> list[float]:
    return [math.nan] * len(batch)


def forgets_one(batch: Sequence[Sample]) -> list[float]:
    return [0.0] * (len(batch) - 1)


HERE = __name__


def test_svr_reward_is_iou_plus_format():
    scores = build({"iou": 1, "format": 1}).score([GOOD, BAD])
    assert [score.value for score in scores] == [2, 0]
    assert scores[0].components == {"iou": 1, "format": 1}
    assert scores[1].flags == {"malformed"}


def test_weights_multiply_and_components_stay_plain():
    [score] = build({"iou": 0.5, "format": -2}).score([GOOD])
    assert score.value == pytest.approx(0.5 - 2)
    assert score.components == {"iou": 1, "format": 1}


def test_a_users_function_is_named_by_module_and_function():
    [score] = build({f"{HERE}:text_length": 2.0}).score([GOOD])
    assert score.value == 8
    assert score.components == {f"{HERE}:text_length": 4}


def test_a_users_function_may_give_scores_with_parts_and_flags():
    [score] = build({f"{HERE}:detailed": 1.0}).score([GOOD])
    assert score.components == {f"{HERE}:detailed": 1, f"{HERE}:detailed.part": 0.5}
    assert score.flags == {"empty"}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "no reward is named"),
        ({"iuo": 1.0}, "'iuo' is unknown; use one of: iou"),
        ({"iou": math.nan}, "finite"),
        ({"no.such.module:f": 1.0}, "cannot be imported"),
        ({":f": 1.0}, "cannot be imported"),
        ({"math:no_such": 1.0}, "cannot be imported"),
        ({"math:pi": 1.0}, "is a float"),
    ],
)
def test_a_reward_that_cannot_be_built_is_refused_at_start(weights: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        build(weights)


def test_one_failing_sample_is_flagged_and_the_others_keep_their_scores(caplog: pytest.LogCaptureFixture):
    composite = build({f"{HERE}:fails_on_bad": 1.0, "format": 1.0})
    with caplog.at_level(logging.ERROR):
        scores = composite.score([GOOD, BAD, GOOD])
        composite.score([BAD])
    assert [score.value for score in scores] == [2, 0, 2]
    assert ["scorer_error" in score.flags for score in scores] == [False, True, False]
    assert len(caplog.records) == 1


def test_a_value_that_is_not_finite_is_flagged():
    [score] = build({f"{HERE}:not_a_number": 1.0}).score([GOOD])
    assert score.value == 0
    assert "scorer_error" in score.flags


def test_a_scorer_that_loses_a_sample_is_an_error():
    with pytest.raises(ValueError, match="returned 1 scores for 2"):
        build({f"{HERE}:forgets_one": 1.0}).score([GOOD, GOOD])


@given(st.lists(samples, min_size=1, max_size=4))
def test_nothing_a_model_can_write_crashes_and_the_batch_does_not_matter(batch: list[Sample]):
    composite = build(dict.fromkeys(OFFLINE, 1.0))
    together = composite.score(batch)
    assert all(math.isfinite(score.value) for score in together)
    assert all("scorer_error" not in score.flags for score in together)
    assert together == [composite.score([sample])[0] for sample in batch]
    assert together[::-1] == composite.score(batch[::-1])


@pytest.mark.parametrize("text", ["", "...", "é" * 10_000, "所见正常", "<answer>none</answer>", "a " * 5000])
def test_odd_texts_have_finite_scores(text: str):
    sample = Sample(text, None, False, (BOX,), "no effusion is seen .")
    assert all(math.isfinite(score.value) for score in build(dict.fromkeys(OFFLINE, 1.0)).score([sample]))


def test_empty_batch():
    assert build({"iou": 1.0}).score([]) == []
