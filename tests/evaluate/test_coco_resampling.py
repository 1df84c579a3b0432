"""mAP of chosen prompts against the package that counts COCO's."""

from __future__ import annotations

import numpy as np
import pytest

from boxmed_ray.evaluate.coco_resampling import CocoMatches
from rewards.detection import coco_map
from rewards.sample import BoxT


def _corpus(seed: int) -> tuple[list[list[BoxT] | None], list[list[BoxT]], list[str]]:
    rng = np.random.default_rng(seed)
    predicted: list[list[BoxT] | None] = []
    target: list[list[BoxT]] = []
    for _ in range(60):
        corners = rng.uniform(0, 60, (rng.integers(1, 4), 2))
        truth = np.concatenate([corners, corners + rng.uniform(10, 40, corners.shape)], axis=1)
        said = (truth + rng.normal(0, 5, truth.shape))[: rng.integers(0, 4)]
        predicted.append(None if rng.random() < 0.1 else [(b[0], b[1], b[2], b[3]) for b in said.tolist()])
        target.append([(b[0], b[1], b[2], b[3]) for b in truth.tolist()])
    return predicted, target, [str(i) for i in rng.integers(0, 3, 60)]


@pytest.mark.parametrize("seed", range(5))
def test_a_resample_equals_the_package_on_the_chosen_prompts(seed: int):
    predicted, target, labels = _corpus(seed)
    rows = np.sort(np.random.default_rng(seed + 100).integers(0, 60, 60))
    expected = coco_map([predicted[i] for i in rows], [target[i] for i in rows], [labels[i] for i in rows])
    precision = CocoMatches(predicted, target, labels).average_precision(rows)
    assert precision.mean() == pytest.approx(expected.mean, abs=1e-9)
    assert (precision[0], precision[5]) == pytest.approx((expected.at_50, expected.at_75), abs=1e-9)


def test_what_does_not_exist_is_nan_and_what_is_not_said_is_zero():
    box = (0.0, 0.0, 10.0, 10.0)
    matches = CocoMatches([None, ()], [[box], []], ["a", "b"])
    assert matches.average_precision(np.array([0])).tolist() == [0.0] * 10
    assert np.isnan(matches.average_precision(np.array([1]))).all()
