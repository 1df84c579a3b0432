"""Pairing, Holm's correction and intervals, by hand and on samples whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boxmed_ray.config import ConfigError
from boxmed_ray.evaluate.comparison import Difference, compare_samples, holm
from boxmed_ray.evaluate.evaluation import ReportRecord, Samples
from boxmed_ray.evaluate.significance import one_tailed_wilcoxon
from tests.evaluate.examples import record


def _samples(
    width: float, reports: int = 12, generated: str = "Left pleural effusion.", radcliq: float = 1.0
) -> Samples:
    """Answers that begin where the target does and are ``width`` and a little wide; the target is 40 wide."""
    records = [record(str(i), greedy=((10.0, 10.0, 10.0 + width + i / 10, 60.0),)) for i in range(12)]
    texts = [
        ReportRecord(str(i), "Left pleural effusion.", "Left effusion.", {"radcliq_v1": radcliq + i / 100})
        for i in range(reports)
    ]
    digests = {f"grounding {r.prompt_id}": "0" for r in records} | {f"report {t.study_id}": "0" for t in texts}
    return Samples(records, texts, digests)


def _by_name(found: list[Difference]) -> dict[str, Difference]:
    return {each.name: each for each in found}


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_the_better_side_has_small_p_and_an_interval_above_zero():
    found = _by_name(compare_samples(_samples(36), _samples(20), resamples=100))
    iou = found["mean_iou"]
    assert iou.first > iou.second
    assert 0 < iou.low <= iou.first - iou.second <= iou.high
    assert iou.p == pytest.approx(1 / 2**12)
    assert iou.p_holm is not None
    assert iou.p_holm > iou.p
    assert _by_name(compare_samples(_samples(20), _samples(36), resamples=100))["mean_iou"].p == pytest.approx(1)


def test_less_radcliq_wins():
    found = _by_name(compare_samples(_samples(30, radcliq=0.5), _samples(30, radcliq=0.9), resamples=100))
    assert found["radcliq_v1"].better == "less"
    assert found["radcliq_v1"].p == pytest.approx(one_tailed_wilcoxon({str(i): 1.0 for i in range(12)},
                                                                      {str(i): 0.0 for i in range(12)}))  # fmt: skip
    assert found["radcliq_v1"].high < 0


def test_a_model_beside_itself_is_not_better():
    found = compare_samples(_samples(30), _samples(30), resamples=100)
    assert {each.p for each in found if each.p is not None} == {1.0}
    assert {(each.low, each.high) for each in found if each.low == each.low} == {(0.0, 0.0)}


def test_figures_without_a_value_per_sample_have_an_interval_and_no_p():
    coco = _by_name(compare_samples(_samples(36), _samples(20), resamples=100))["coco_map"]
    assert (coco.test, coco.p, coco.p_holm) == (None, None, None)
    assert coco.low > 0


def test_the_order_of_samples_does_not_matter():
    first, second = _samples(36), _samples(20)
    turned = replace(second, grounding=second.grounding[::-1], reports=second.reports[::-1])
    # as text, because NaN is not equal to itself
    assert repr(compare_samples(first, turned, 20)) == repr(compare_samples(first, second, 20))


def test_a_scorer_that_one_side_lacks_is_left_out():
    bare = _samples(30)
    bare = replace(bare, reports=[replace(report, scores={}) for report in bare.reports])
    names = _by_name(compare_samples(_samples(30), bare, resamples=100))
    assert "radcliq_v1" not in names
    assert "bleu_4" in names


def test_other_samples_are_refused_with_one_message():
    first = _samples(30)
    with pytest.raises(ConfigError, match=r"of 24, 4 are in one only and 0 differ .*report 10, report 11, report 8"):
        compare_samples(first, _samples(30, reports=8))
    changed = replace(first, digests={**first.digests, "grounding 3": "1"})
    with pytest.raises(ConfigError, match=r"0 are in one only and 1 differ in image.* \(grounding 3\)"):
        compare_samples(first, changed)
