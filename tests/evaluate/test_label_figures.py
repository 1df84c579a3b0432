"""Label figures by hand."""

from __future__ import annotations

import numpy as np
import pytest

from boxmed_ray.evaluate.label_figures import category_f1, label_figures
from rewards.categories import Status

P, N, U = Status.POSITIVE, Status.NEGATIVE, Status.UNCERTAIN
TRUE = [{"Edema": P, "Pneumothorax": N}, {"Edema": P, "Fracture": U}, {}]
SAID = [{"Edema": P, "Pneumothorax": P}, {"Edema": N, "Fracture": U}, {}]


def test_every_pooling_by_hand():
    values = label_figures("x", "by hand", TRUE, SAID, ["a", "b", "c"]).values()
    assert values["x_accuracy"] == pytest.approx((3 * 14 - 2) / (3 * 14))
    # positive: one hit (Edema), one false alarm (Pneumothorax), one miss (Edema)
    assert values["x_precision_micro"] == values["x_recall_micro"] == values["x_f1_micro"] == 0.5
    assert values["x_precision_macro"] == pytest.approx((1 + 0) / 2)
    assert values["x_recall_macro"] == pytest.approx((1 / 2 + 0) / 2)
    assert values["x_f1_macro"] == pytest.approx((2 / 3 + 0) / 2)
    # positive 1/2, negative 0 (one false alarm, one miss), uncertain 1, not mentioned 1
    assert values["x_f1_macro_values"] == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert category_f1(TRUE, SAID) == pytest.approx({"Edema": 2 / 3, "Pneumothorax": 0})


def test_a_report_has_values_of_its_own():
    columns = label_figures("x", "by hand", TRUE, SAID, ["a", "b", "c"]).columns
    assert columns["x_f1"].tolist() == pytest.approx([2 / 3, 0, 1])
    assert columns["x_accuracy"].tolist() == pytest.approx([13 / 14, 13 / 14, 1])


def test_nothing_asserted_is_not_defined_rather_than_zero():
    values = label_figures("x", "by hand", [{}], [{}], ["a"]).values()
    assert np.isnan(values["x_f1_micro"])
    assert np.isnan(values["x_f1_macro"])
    assert values["x_f1_macro_values"] == 1


def test_the_name_says_who_labelled():
    figures = label_figures("x", "labels by hand", TRUE, SAID, ["a", "b", "c"]).figures
    assert len(figures) == 10
    assert all(figure.variant.endswith("labels by hand") for figure in figures)
