"""The signed-rank test against the exact distribution, and pairing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import wilcoxon

from boxmed_ray.evaluate.significance import compare, one_tailed_wilcoxon
from tests.evaluate.examples import TARGET, record

HALF = (10.0, 10.0, 50.0, 35.0)


def test_p_equals_the_enumeration_of_all_signs():
    differences = [0.1, 0.2, -0.05, 0.4, 0.3, -0.15, 0.25]
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = ranks[np.array(differences) > 0].sum()
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product([0, 1], repeat=7)]
    expected = sum(value >= observed for value in sums) / len(sums)
    better = {str(i): value for i, value in enumerate(differences)}
    assert one_tailed_wilcoxon(better, dict.fromkeys(better, 0.0)) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 5, 9, 14, 60])
def test_tied_pairs_are_tested_as_scipy_does(count: int):
    rng = np.random.default_rng(count)
    differences = rng.integers(-1, 4, count).astype(float)
    differences[0] = 2
    expected = wilcoxon(differences[differences != 0], alternative="greater", method="auto").pvalue
    better = {str(i): value for i, value in enumerate(differences)}
    assert one_tailed_wilcoxon(better, dict.fromkeys(better, 0.0)) == pytest.approx(expected)


def test_direction_matters():
    better = {str(i): i / 10 for i in range(1, 10)}
    worse = dict.fromkeys(better, 0.0)
    assert one_tailed_wilcoxon(better, worse) < 0.01
    assert one_tailed_wilcoxon(worse, better) > 0.99


def test_no_difference_at_all_is_one():
    assert one_tailed_wilcoxon({"a": 0.5, "b": 0.2}, {"b": 0.2, "a": 0.5}) == 1


@pytest.mark.parametrize(("better", "worse"), [({}, {}), ({"a": 1.0}, {"b": 1.0}), ({"a": 1.0}, {})])
def test_sides_that_do_not_pair_are_refused(better: dict[str, float], worse: dict[str, float]):
    with pytest.raises(ValueError, match="same prompts"):
        one_tailed_wilcoxon(better, worse)


def test_records_pair_by_prompt_in_any_order_and_denials_are_left_out():
    denial = record("none", target=(), greedy=None)
    better = [record(str(i)) for i in range(8)]
    worse = [record(str(i), greedy=((*HALF[:3], 30.0 + i),)) for i in range(8)]
    assert compare([*better, denial], [denial, *worse[::-1]]) == pytest.approx(1 / 2**8)
    with pytest.raises(ValueError, match="prompt_id"):
        compare([*better, better[0]], worse)
    assert better[0].target == (TARGET,)
