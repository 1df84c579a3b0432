"""The page of a comparison: what is on it, in which order, and that it stands alone."""

from __future__ import annotations

import base64
import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from boxmed_ray.evaluate.comparison import compare_samples
from boxmed_ray.evaluate.comparison_page import Side, class_bars, write_comparison_page
from boxmed_ray.evaluate.concept_figures import ConceptRecord
from boxmed_ray.evaluate.evaluation import ReportRecord, Samples
from tests.evaluate.examples import TARGET, record

REASONING = "<think>Fluid -> Pleural Effusion -> left lung</think><answer>Pleural Effusion</answer>"
BESIDE = {"mean_iou": {"constant_box": 0.125, "random_box": 0.0625}}
FAR = (60.0, 60.0, 90.0, 90.0)


def _samples(images: dict[str, str], good: bool) -> Samples:
    grounding = [
        record("a", greedy=(TARGET,)),
        record("b", greedy=None, label="Edema"),
        record("c", greedy=(TARGET if good else FAR,), label="Edema <b>"),
        record("d", target=(), greedy=()),
    ]
    reports = [ReportRecord("a", "Cardiomegaly.", "Cardiomegaly." if good else "No cardiomegaly.")]
    reports = [replace(report, study_id="study-a") for report in reports]
    chains = [ConceptRecord("study-a", REASONING, REASONING.replace("left", "left" if good else "right"))]
    digests = {f"grounding {r.prompt_id}": "0" for r in grounding} | {"report study-a": "0", "concepts study-a": "0"}
    return Samples(grounding if good else grounding[::-1], reports, digests, images, chains)


@pytest.fixture
def page(tmp_path: Path) -> str:
    Image.new("L", (100, 100)).save(tmp_path / "x.png")
    images = {"study-a": str(tmp_path / "x.png"), "study-b": str(tmp_path / "gone.png")}
    first, second = _samples(images, good=True), _samples(images, good=False)
    found = compare_samples(first, second, resamples=20)
    metrics = [[{"stage": "svr", "step": i, "reward": i / part} for i in (1, 2, 3)] for part in (1, 2)]
    sides = [Side(n, s, m) for n, s, m in zip(("one", "<two>"), (first, second), metrics, strict=True)]
    write_comparison_page(tmp_path / "out" / "comparison.html", found, *sides, BESIDE)
    return (tmp_path / "out" / "comparison.html").read_text()


def test_the_page_loads_nothing_and_names_are_text(page: str):
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    assert "<two>" not in page
    assert "Edema <b>" not in page


def test_every_figure_can_be_taken_away_as_csv(page: str):
    files = re.findall(r"download=\"([^\"]+)\" href=\"data:text/csv;base64,([^\"]+)", page)
    tables = {name: list(csv.DictReader(io.StringIO(base64.b64decode(text).decode()))) for name, text in files}
    assert set(tables) == {"figures.csv", "classes.csv", "radar.csv", "curves-1.csv", "curves-2.csv"}
    figures, classes = tables["figures.csv"], tables["classes.csv"]
    assert {row["name"]: row["constant_box"] for row in figures}["mean_iou"] == "0.125"
    assert tables["radar.csv"][0].keys() == {"axis", "one", "<two>"}
    assert [float(row["value"]) for row in tables["curves-2.csv"]] == [0.5, 1, 1.5]
    values = {row["name"]: (float(row["first"]), float(row["second"])) for row in figures}
    assert values["mean_iou"] == pytest.approx((2 / 3, 1 / 3))
    assert {"bleu_4", "coco_map", "chexpert_f1_macro_values"} <= values.keys()
    assert {row["class"] for row in classes} >= {"Edema", "Edema <b>", "Lung Lesion", "Cardiomegaly"}


def test_boxes_are_drawn_also_where_an_image_is_gone(page: str):
    assert page.count("data:image/jpeg;base64,") == 1
    assert len(re.findall(r'<rect class="truth"', page)) == 3
    assert len(re.findall(r'<rect class="svr"', page)) == 2  # the malformed answer has none


def test_cases_stand_worst_first_beside_reports_and_reasoning_of_both(page: str):
    cases = re.findall(r'<article class="case">(.*?)</article>', page, re.DOTALL)
    assert [re.search(r"<figcaption>(study-\w)", case)[1] for case in cases] == ["study-b", "study-a", "study-c"]  # type: ignore[index]
    for words in ("Cardiomegaly.", "No cardiomegaly.", "left lung", "right lung", "&lt;two&gt;: report"):
        assert words in cases[1]
    assert "IoU 1.00, &lt;two&gt; 0.00" in cases[2], "the second side was read in another order"
    assert "3 of 3 images with a true box" in page


def test_grounding_stands_beside_baselines_and_curves_of_both_are_drawn(page: str):
    assert "<td>0.125</td><td>0.062</td>" in page
    assert "constant box" in page
    [curve] = re.findall(r'aria-label="(SVR: reward[^"]*)"', page)
    assert curve.count("→") == 2


def test_bars_hold_both_sides_and_a_class_of_one_side_has_a_gap():
    first, second = _samples({}, good=True), _samples({}, good=False)
    iou, f1 = class_bars(first, second)
    assert iou.rows["Edema <b>"] == (1, 0)
    assert f1.rows["Cardiomegaly"] == (1, 0)
    silent = replace(second, reports=[])
    assert class_bars(first, silent)[1].rows["Cardiomegaly"] == (1, None)
