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
from boxmed_ray.evaluate.comparison_page import class_bars, worst_cases, write_comparison_page
from boxmed_ray.evaluate.evaluation import ReportRecord, Samples
from tests.evaluate.examples import TARGET, record

FAR = (60.0, 60.0, 90.0, 90.0)


def _samples(images: dict[str, str], good: bool) -> Samples:
    grounding = [
        record("a", greedy=(TARGET,)),
        record("b", greedy=None, label="Edema"),
        record("c", greedy=(TARGET if good else FAR,), label="Edema <b>"),
        record("d", target=(), greedy=()),
    ]
    reports = [ReportRecord("a", "Cardiomegaly.", "Cardiomegaly." if good else "No cardiomegaly.")]
    digests = {f"grounding {r.prompt_id}": "0" for r in grounding} | {"report a": "0"}
    return Samples(grounding, reports, digests, images)


@pytest.fixture
def page(tmp_path: Path) -> str:
    Image.new("L", (100, 100)).save(tmp_path / "x.png")
    images = {"study-a": str(tmp_path / "x.png"), "study-b": str(tmp_path / "gone.png")}
    first, second = _samples(images, good=True), _samples(images, good=False)
    found = compare_samples(first, second, resamples=20)
    write_comparison_page(tmp_path / "out" / "comparison.html", ("one", "<two>"), found, first, second)
    return (tmp_path / "out" / "comparison.html").read_text()


def test_the_page_loads_nothing_and_names_are_text(page: str):
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "<script" not in page
    assert "<two>" not in page
    assert "Edema <b>" not in page


def test_every_figure_can_be_taken_away_as_csv(page: str):
    figures, classes = (
        list(csv.DictReader(io.StringIO(base64.b64decode(text).decode())))
        for text in re.findall(r"data:text/csv;base64,([^\"]+)", page)
    )
    values = {row["name"]: (float(row["first"]), float(row["second"])) for row in figures}
    assert values["mean_iou"] == pytest.approx((2 / 3, 1 / 3))
    assert {"bleu_4", "coco_map", "chexpert_f1_macro_values"} <= values.keys()
    assert {row["class"] for row in classes} >= {"Edema", "Edema <b>", "Lung Lesion", "Cardiomegaly"}


def test_boxes_are_drawn_also_where_an_image_is_gone(page: str):
    assert page.count("data:image/jpeg;base64,") == 1
    assert len(re.findall(r'<rect class="truth"', page)) == 3
    assert len(re.findall(r'<rect class="svr"', page)) == 2  # the malformed answer has none


def test_the_worst_answers_come_first_and_denials_are_no_cases():
    first, second = _samples({}, good=False), _samples({}, good=True)
    assert [ours.prompt_id for ours, _ in worst_cases(first, second)] == ["b", "c", "a"]
    assert [theirs.iou for _, theirs in worst_cases(first, second, 2)] == [0, 1]


def test_bars_hold_both_sides_and_a_class_of_one_side_has_a_gap():
    first, second = _samples({}, good=True), _samples({}, good=False)
    iou, f1 = class_bars(first, second)
    assert iou.rows["Edema <b>"] == (1, 0)
    assert f1.rows["Cardiomegaly"] == (1, 0)
    silent = replace(second, reports=[])
    assert class_bars(first, silent)[1].rows["Cardiomegaly"] == (1, None)
