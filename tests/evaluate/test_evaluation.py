"""The folder of an evaluation: what is measured, what comes back from disk, and scorers that are missing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from boxmed_ray.config import ConfigError, JudgesConfig
from boxmed_ray.evaluate.baselines import answer_with_random_box
from boxmed_ray.evaluate.concept_figures import ConceptRecord
from boxmed_ray.evaluate.evaluation import (
    FILE,
    Evaluation,
    ReportRecord,
    Samples,
    figures_of,
    measure,
    read_evaluation,
    write_evaluation,
)
from boxmed_ray.evaluate.grounding import summarise
from boxmed_ray.evaluate.grounding_figures import baseline_values
from boxmed_ray.evaluate.scores import score_reports
from rewards.box import iou
from rewards.categories import Status
from rewards.scorers import ENVIRONMENT
from tests.evaluate.examples import record

NEAR = (12.0, 12.0, 50.0, 60.0)
GROUNDING = [
    record("a", greedy=(NEAR,), sampled=((NEAR,), None)),
    record("b", greedy=None, label="Edema"),
    record("c", target=(), greedy=()),
    record("d", greedy=((60.0, 60.0, 90.0, 90.0),), label="Edema"),
]
REPORTS = [
    ReportRecord("a", "No effusion.\r\nHeart, \"normal\".", "No effusion.\nline two", {"bertscore": 0.25},
                 ({"Edema": Status.POSITIVE}, {})),
    ReportRecord("b", "Cardiomegaly.", "", {"bertscore": -0.5}, ({}, {"Edema": Status.UNCERTAIN})),
]  # fmt: skip
CONCEPTS = [ConceptRecord("a", "<think>none</think><answer>none</answer>", 'no form,\n"at all"')]
SAMPLES = Samples(
    GROUNDING,
    REPORTS,
    {f"grounding {r.prompt_id}": r.prompt_id for r in GROUNDING}
    | {f"report {r.study_id}": "x" for r in REPORTS}
    | {f"concepts {r.study_id}": "y" for r in CONCEPTS},
    concepts=CONCEPTS,
)


def _evaluation() -> Evaluation:
    baselines = baseline_values({"constant_box": GROUNDING})
    values = {kind: measure(figures, 100, 0, baselines if kind == "grounding" else {})
              for kind, figures in figures_of(SAMPLES).items()}  # fmt: skip
    return Evaluation(
        name="x", model="m", adapter=None, data="phantom", data_hash="h", seed=0, resamples=100, versions={},
        grounding=values["grounding"], reports=values["reports"], missing={"radgraph": "get it"},
    )  # fmt: skip


def test_grounding_figures_are_those_of_a_runs_summary():
    values, summary = figures_of(SAMPLES)["grounding"].values(), summarise(GROUNDING)
    assert values["mean_iou"] == pytest.approx(summary.mean_iou)
    assert values["share_50"] == pytest.approx(summary.share_50)
    assert values["soft_f1"] == pytest.approx(summary.soft_f1)
    assert values["ap_50"] == pytest.approx(summary.ap_50)
    assert values["coco_map"] == pytest.approx(summary.coco_map)
    assert values["none_accuracy"] == summary.none_accuracy == 1
    assert values["malformed"] == pytest.approx(1 - summary.format_rate)
    assert values["mean_iou_sampled"] == pytest.approx(iou(NEAR, (10.0, 10.0, 50.0, 60.0)) / 2)


def test_every_figure_has_its_definition_and_an_interval_around_it():
    evaluation = _evaluation()
    figures = {**evaluation.grounding, **evaluation.reports}
    assert {"bleu_1", "rouge_l", "chexpert_f1_macro_values", "chexbert_f1_micro", "bertscore"} <= figures.keys()
    assert all(figure.variant for figure in figures.values())
    for figure in figures.values():
        if figure.value is not None and figure.low is not None and figure.high is not None:
            assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9
    assert evaluation.grounding["mean_iou"].n == evaluation.grounding["coco_map"].n == 3
    assert evaluation.grounding["malformed"].n == 4
    assert evaluation.grounding["malformed"].better == "less"
    assert evaluation.grounding["share_50"].baselines == {"constant_box": pytest.approx(1 / 3)}


def test_samples_come_back_from_disk_as_they_were(tmp_path: Path):
    evaluation = _evaluation()
    write_evaluation(tmp_path, evaluation, SAMPLES, {"constant_box": GROUNDING})
    assert read_evaluation(tmp_path) == (evaluation, SAMPLES)


def test_the_csv_has_every_value_of_every_sample(tmp_path: Path):
    write_evaluation(tmp_path, _evaluation(), SAMPLES, {"random_box": GROUNDING})
    with (tmp_path / "grounding.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["iou_random_box"] for row in rows] == [row["iou"] for row in rows]
    assert [row["iou"] for row in rows] == [repr(GROUNDING[0].iou), "0.0", "", "0.0"]
    assert [row["malformed"] for row in rows] == ["0.0", "1.0", "0.0", "0.0"]


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no evaluation\.json in it"):
        read_evaluation(tmp_path)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(ConfigError, match="not readable as an evaluation"):
        read_evaluation(tmp_path)


def test_random_boxes_have_a_training_size_and_lie_in_the_image():
    training = [("a", (0.0, 0.0, 0.25, 0.5)), ("b", (0.5, 0.5, 1.0, 0.75))]
    answers = answer_with_random_box([record(str(i)) for i in range(50)], training, seed=1)
    boxes = [answer.greedy[0] for answer in answers if answer.greedy]
    assert {(round(x2 - x1), round(y2 - y1)) for x1, y1, x2, y2 in boxes} == {(25, 50), (50, 25)}
    assert all(0 <= value <= 100 for box in boxes for value in box)
    assert len({box[0] for box in boxes}) == 50
    assert answers == answer_with_random_box([record(str(i)) for i in range(50)], training, seed=1)


def test_a_missing_scorer_is_named_with_its_remedy_and_is_no_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    monkeypatch.setattr("boxmed_ray.evaluate.scores._METRICS", ("radgraph", "bertscore"))
    scores = score_reports(["No effusion."], ["No effusion."], {}, JudgesConfig(), tmp_path)
    lacking = {"radgraph", "bertscore", "chexbert_similarity", "radcliq_v0", "radcliq_v1"}
    assert lacking <= scores.missing.keys()
    assert not lacking & scores.values.keys()
    assert "hf download" in scores.missing["radgraph"]
    assert "radgraph, bertscore, chexbert_similarity" in scores.missing["radcliq_v1"]
    assert scores.labels is None
