"""The constant box against brute force and against what it must never look at."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from boxmed_ray.data.study import Box, Finding, Study
from boxmed_ray.evaluate.baselines import (
    answer_as_reader,
    answer_with_constant_box,
    fit_constant_boxes,
    normalise,
    readers_against_each_other,
)
from boxmed_ray.evaluate.grounding import summarise
from boxmed_ray.evaluate.grounding_figures import baseline_values
from rewards.box import pairwise_iou
from tests.evaluate.examples import TARGET, record


def jittered(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = rng.normal([0.4, 0.5], 0.05, (count, 2))
    half = rng.uniform(0.05, 0.2, (count, 2))
    return np.clip(np.concatenate([centre - half, centre + half], 1), 0, 1)


def test_same_boxes_give_that_box():
    box = (0.1, 0.2, 0.3, 0.5)
    assert fit_constant_boxes([("a", box)] * 5)["a"] == pytest.approx(box)


def test_fit_is_at_least_as_good_as_a_grid_of_all_boxes():
    boxes = jittered(60, 0)
    fitted = fit_constant_boxes([("a", tuple(box)) for box in boxes])["a"]
    lines = np.linspace(0, 1, 21)
    sides = list(itertools.combinations(lines, 2))
    grid = [(x1, y1, x2, y2) for x1, x2 in sides for y1, y2 in sides]
    assert pairwise_iou([fitted], boxes).mean() >= pairwise_iou(grid, boxes).mean(1).max() - 1e-9


def test_each_label_has_its_own_box_and_input_order_does_not_matter_much():
    boxes = [("a", (0.0, 0.0, 0.2, 0.2)), ("b", (0.5, 0.5, 1.0, 1.0))]
    assert fit_constant_boxes(boxes) == fit_constant_boxes(boxes[::-1])


def test_answers_are_in_pixels_of_each_image_and_scored_as_a_models_would_be():
    records = [record("a", target=((10.0, 10.0, 20.0, 20.0),), greedy=None), record("b", label="unseen")]
    answered = answer_with_constant_box(records, {"Lung Lesion": (0.1, 0.1, 0.2, 0.2)})
    assert answered[0].greedy is not None
    assert answered[0].greedy[0] == pytest.approx((10, 10, 20, 20))
    assert answered[1].greedy == ()
    result = summarise(answered)
    assert result.per_label["Lung Lesion"].mean_iou == pytest.approx(1)
    assert result.sampled_mean_iou == pytest.approx(result.mean_iou)


def test_normalise_undoes_image_size():
    assert normalise((10, 20, 30, 40), 100, 200) == (0.1, 0.1, 0.3, 0.2)


def test_readers_are_held_against_each_other_both_ways() -> None:
    one, same, away = ((Box(0, 0, 10, 10),), (Box(0, 0, 10, 5),), (Box(50, 50, 60, 60),))
    findings = (
        Finding(phrase="Mass.", boxes=one, disease="Lung Lesion", readings=(one, same, ())),
        Finding(phrase="Edema.", boxes=away, disease="Edema"),
    )
    study = Study(id="s", patient_id="p", image=Path("x.png"), width=100, height=100, findings=findings, source="x")
    found = readers_against_each_other([study])
    assert [(record.iou, record.label) for record in found] == [(iou, "Mass") for iou in (0.5, 0, 0.5, 0)]
    assert baseline_values({"readers": found})["readers"]["mean_iou"] == 0.25


def test_a_second_reader_answers_what_it_read_and_counts_only_there() -> None:
    records = [
        replace(record(), prompt_id=f"{study}/ground/{phrase}", study_id=study)
        for study, phrase in (("a", "Mass."), ("a", "Nodule/scar."), ("b", "Mass."))
    ]
    answers = answer_as_reader(records, {"a": {"Mass.": [TARGET]}})
    assert [None if answer is None else answer.iou for answer in answers] == [1.0, 0.0, None]
    assert records[1].phrase == "Nodule/scar."
    values = baseline_values({"second_reader": answers, "nobody": [None]})
    assert values.keys() == {"second_reader"}
    assert values["second_reader"]["mean_iou"] == 0.5
