"""Aggregation by hand."""

import pytest

from boxmed_ray.evaluate.grounding import summarise
from tests.evaluate.examples import TARGET, record

HALF = (10.0, 10.0, 50.0, 35.0)


def test_means_by_hand():
    records = [
        record("a", sampled=((TARGET,), None)),
        record("b", greedy=(HALF,), sampled=((HALF,), (HALF,))),
        record("c", greedy=None, label="Pneumothorax", sampled=(None, None)),
    ]
    result = summarise(records)
    assert result.mean_iou == pytest.approx(1.5 / 3)
    assert result.share_50 == pytest.approx(2 / 3)
    assert result.format_rate == pytest.approx(2 / 3)
    assert result.sampled_mean_iou == pytest.approx((1 + 0.5 + 0.5) / 6)
    assert result.sampled_format_rate == pytest.approx(3 / 6)
    assert (result.n, result.images) == (3, 3)
    assert {label: (row.mean_iou, row.n) for label, row in result.per_label.items()} == {
        "Lung Lesion": (0.75, 2),
        "Pneumothorax": (0, 1),
    }


def test_denied_findings_have_figures_of_their_own():
    result = summarise([record("a", greedy=(HALF,)), record("b", target=(), greedy=()), record("c", target=())])
    assert (result.n, result.mean_iou) == (1, 0.5)
    assert (result.none_n, result.none_accuracy) == (2, 0.5)


def test_soft_f1_gives_credit_where_the_count_is_wrong():
    result = summarise([record("a", greedy=(TARGET, HALF))])
    assert result.mean_iou == 0
    assert result.soft_f1 == pytest.approx(2 / 3)


def test_nothing_sampled_is_none_and_not_zero():
    assert summarise([record()]).sampled_mean_iou is None


def test_nothing_to_find_is_an_error():
    with pytest.raises(ValueError, match="target box"):
        summarise([record(target=(), greedy=())])
