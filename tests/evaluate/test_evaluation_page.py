"""The page of one evaluation: complete, self-contained, escaped, worst first, every chart also as CSV."""

from __future__ import annotations

import base64
import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from boxmed_ray.evaluate.concept_figures import ConceptRecord
from boxmed_ray.evaluate.evaluation import Evaluation, ReportRecord, Samples, figures_of, measure
from boxmed_ray.evaluate.evaluation_page import write_evaluation_page
from boxmed_ray.evaluate.grounding_figures import baseline_values
from boxmed_ray.evaluate.radar import radar_axes, radar_svg
from boxmed_ray.evaluate.study_cases import worst_studies
from tests.evaluate.examples import record
from tests.evaluate.test_report_page import Checker

EVIL = '<script>alert("x")</script> & more'
REASONING = "<think>Fluid -> Pleural Effusion -> left lung</think><answer>Pleural Effusion</answer>"
FAR = (60.0, 60.0, 90.0, 90.0)
RECORDS = [
    replace(record(), prompt_id="good/ground/Mass.", study_id="good"),
    replace(record(label="Edema", greedy=(FAR,)), prompt_id=f"bad/ground/{EVIL}", study_id="bad"),
    replace(record(greedy=None), prompt_id="bad/ground/Nodule.", study_id="bad"),
]


@pytest.fixture
def page(tmp_path: Path) -> str:
    image = tmp_path / "image.png"
    Image.fromarray(np.tile(np.arange(0, 200, 2, dtype=np.uint8), (100, 1))).save(image)
    samples = Samples(
        RECORDS,
        [ReportRecord("bad", f"Reference. {EVIL}", f"Generated. {EVIL}")],
        {},
        {"bad": str(image), "good": str(tmp_path / "gone.png")},
        [ConceptRecord("bad", REASONING, EVIL)],
    )
    baselines = {"constant_box": RECORDS, "second_reader": [RECORDS[0], None, None]}
    beside = {"grounding": baseline_values(baselines)}
    values = {kind: measure(figures, 20, 0, beside.get(kind, {})) for kind, figures in figures_of(samples).items()}
    evaluation = Evaluation(
        name="run", model="m", adapter=None, data="phantom", data_hash="0123", seed=0, resamples=20, versions={},
        grounding=values["grounding"], concepts=values["concepts"], reports=values["reports"],
        missing={"green": "needs a judge"},
    )  # fmt: skip
    metrics = [{"stage": "svr", "step": step, "reward": 1.0 + step} for step in range(1, 5)]
    return write_evaluation_page(tmp_path / "out", evaluation, samples, baselines, metrics).read_text()


def test_the_page_is_well_formed_escaped_and_refers_to_nothing_outside(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.tags["script"] == checker.tags["link"] == 0
    assert all(link.startswith(("data:", "#")) for link in checker.links)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4
    assert not re.search(r"url\((?!#)|@import", page)


def test_it_holds_figures_baselines_reasoning_reports_and_what_is_missing(page: str) -> None:
    for words in ("mean_iou", "constant box", "second reader", "chain_accuracy", "bleu_4", "needs a judge", "malformed",
                  "Pleural Effusion", "Generated.", "SVR: reward", "2 of 2 images"):  # fmt: skip
        assert words in page
    assert page.count("<image ") == 1


def test_every_chart_comes_as_csv(page: str) -> None:
    files = dict(re.findall(r'download="([^"]+)" href="data:text/csv;base64,([^"]+)"', page))
    assert set(files) == {"figures.csv", "classes.csv", "radar.csv", "curves.csv"}
    tables = {name: list(csv.DictReader(io.StringIO(base64.b64decode(data).decode()))) for name, data in files.items()}
    [iou] = [row for row in tables["figures.csv"] if row["figure"] == "mean_iou"]
    assert float(iou["value"]) == float(iou["constant_box"]) == pytest.approx(1 / 3)
    assert float(iou["second_reader"]) == 1
    assert {row["class"]: row["model"] for row in tables["classes.csv"] if "IoU" in row["chart"]}["Edema"] == "0.0"
    assert [row["value"] for row in tables["curves.csv"]] == ["2.0", "3.0", "4.0", "5.0"]


def test_worst_images_come_first_with_all_their_prompts() -> None:
    cases = worst_studies(Samples(RECORDS, [], {}))
    assert [(case.study_id, len(case.prompts), case.iou) for case in cases] == [("bad", 2, 0.0), ("good", 1, 1.0)]
    assert [case.study_id for case in worst_studies(Samples(RECORDS, [], {}), count=1)] == ["bad"]


def test_without_any_box_the_worst_reports_are_the_cases(tmp_path: Path) -> None:
    reports = [ReportRecord("fair", "Clear lungs today.", "Clear lungs."), ReportRecord("bad", "Clear lungs.", "")]
    samples = Samples([], reports, {})
    assert [case.study_id for case in worst_studies(samples)] == ["bad", "fair"]
    values = {kind: measure(figures, 20, 0, {}) for kind, figures in figures_of(samples).items()}
    evaluation = Evaluation(
        name="run", model="m", adapter=None, data="iu-xray", data_hash="0123", seed=0, resamples=20, versions={},
        grounding={}, reports=values["reports"], missing={},
    )  # fmt: skip
    page = write_evaluation_page(tmp_path, evaluation, samples, {}).read_text()
    assert "2 of 2 images with a report, by ROUGE-L, worst first" in page
    assert "(empty)" in page
    assert 'class="truth"' not in page


def test_a_radar_has_a_corner_for_each_axis_at_its_share_of_the_radius() -> None:
    svg = ElementTree.fromstring(radar_svg({"a": [1.0, 0.5], "<b>": [0.0, None], "c": [0.5, 2.0]}, ["x", "y"]))
    *_, first, second = [shape.attrib["points"].split() for shape in svg.iter() if shape.tag.endswith("polygon")]
    assert first[0] == "0.0,-100.0"
    assert second[0] == "0.0,-50.0"
    lengths = [[float(np.hypot(*map(float, corner.split(",")))) for corner in shape] for shape in (first, second)]
    assert lengths[0] == pytest.approx([100, 0, 50], abs=0.1)
    assert lengths[1] == pytest.approx([50, 0, 100], abs=0.1)
    assert radar_svg({"a": [1.0], "b": [1.0]}, ["x"]) == ""


def test_axes_are_figures_that_some_model_has_whatever_their_judge() -> None:
    axes = radar_axes([{"mean_iou": 0.5, "green[judge 12]": 0.25, "malformed": 0.1}, {"mean_iou": None}])
    assert axes == {"mean IoU": [0.5, None], "GREEN": [0.25, None]}
