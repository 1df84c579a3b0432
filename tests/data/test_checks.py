"""Checks of data sets: one made-up study with each problem, and good ones without any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxmed_ray.data.checks import Problem, check_items, check_study
from boxmed_ray.data.readers import ImageHashes, Located, SkippedStudy
from boxmed_ray.data.study import Box, Finding, Study
from tests.data.conftest import make_study

LEFT, RIGHT, MIDDLE = Box(40, 8, 56, 24), Box(8, 8, 24, 24), Box(20, 8, 50, 24)
"""Of the patient, in an image of 64 pixels."""


def study(folder: Path, name: str, *, picture: int | None = None, **values: object) -> Study:
    """With a picture of its own, or that of the given number."""
    made = make_study(folder, name, **values)
    rng = np.random.default_rng(sum(name.encode()) * 1000 if picture is None else picture)
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).resize((64, 64)).save(made.image)
    return made


def problems(*studies: Study) -> list[Problem]:
    return list(check_items(Located(each, "here") for each in studies))


def with_finding(folder: Path, **values: object) -> Study:
    finding = Finding.model_validate({"phrase": "Nodule.", "disease": "Lung Lesion"} | values)
    return make_study(folder, findings=(finding,), report=None)


def codes(found: list[Problem]) -> list[tuple[str, str, str]]:
    return [(problem.level, problem.code, problem.study) for problem in found]


def test_good_studies_have_no_problem(tmp_path: Path) -> None:
    assert problems(*(study(tmp_path, name, patient_id=f"p{name}") for name in "abcd")) == []


def test_one_id_twice_in_a_data_set(tmp_path: Path) -> None:
    first = study(tmp_path, "a", patient_id="1", source="mimic-cxr")
    second = first.model_copy(update={"source": "ms-cxr"})  # the same image of the same patient
    assert problems(first, second) == []
    again = first.model_copy(update={"image": study(tmp_path, "b").image})
    assert codes(problems(first, again)) == [("error", "duplicate-id", "a")]


def test_a_patient_in_two_splits_of_two_data_sets_on_the_same_patients(tmp_path: Path) -> None:
    first = study(tmp_path, "a", patient_id="10", source="mimic-cxr")
    second = study(tmp_path, "b", patient_id="10", source="ms-cxr", split="test")
    (found,) = problems(first, second)
    assert (found.level, found.code, found.study) == ("error", "patient-in-two-splits", "b")
    assert "'a'" in found.what
    assert "mimic-cxr" in found.what
    assert "one split" in found.remedy


def test_the_same_number_of_two_hospitals_is_two_patients(tmp_path: Path) -> None:
    first = study(tmp_path, "a", patient_id="10", source="nih-cxr14")
    assert problems(first, study(tmp_path, "b", patient_id="10", source="vindr-cxr", split="test")) == []


@pytest.mark.parametrize(("split", "level"), [("test", "error"), ("train", "warning")])
def test_one_picture_twice_is_worse_across_splits(tmp_path: Path, split: str, level: str) -> None:
    first, second = study(tmp_path, "a", picture=1), study(tmp_path, "b", picture=1, split=split)
    assert codes(problems(first, second)) == [(level, "duplicate-image", "b")]


def test_two_data_sets_on_the_same_images_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    first = study(tmp_path, "a", picture=1, patient_id="10", source="mimic-cxr")
    assert problems(first, study(tmp_path, "b", picture=1, patient_id="10", source="latte-cxr")) == []


def test_a_picture_that_is_there_often_is_told_once_a_study(tmp_path: Path) -> None:
    assert len(problems(*(study(tmp_path, name, picture=1) for name in "abcde"))) == 4


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"phrase": "Nodule of the left lung.", "boxes": (LEFT,)}, False),
        ({"phrase": "Nodule of the left lung.", "boxes": (RIGHT,)}, True),
        ({"phrase": "RIGHT upper lobe nodule.", "boxes": (LEFT,)}, True),
        ({"phrase": "Nodule of the left lung.", "boxes": (MIDDLE,)}, False),
        ({"phrase": "Nodule of the left lung.", "boxes": (RIGHT, LEFT)}, False),
        ({"phrase": "Nodules of the left and right lung.", "boxes": (RIGHT,)}, False),
        ({"phrase": "Bilateral nodules, larger left.", "boxes": (RIGHT,)}, False),
        ({"phrase": "Left PICC ends in the atrium.", "boxes": (RIGHT,), "disease": "Support Devices"}, False),
        ({"phrase": "Nodule of the left lung.", "boxes": (), "region": "right lung"}, True),
        ({"phrase": "Nodule of the left lung.", "boxes": (), "region": "left lung"}, False),
    ],
)
def test_side_of_words_against_side_of_boxes_and_region(tmp_path: Path, values: dict[str, object], wrong: bool) -> None:
    found = list(check_study(with_finding(tmp_path, **values)))
    assert [problem.code for problem in found] == ["laterality"] * wrong


def test_a_lateral_view_has_no_sides(tmp_path: Path) -> None:
    wrong = with_finding(tmp_path, phrase="Nodule of the left lung.", boxes=(RIGHT,))
    assert [p.code for p in check_study(wrong.model_copy(update={"view": "AP"}))] == ["laterality"]
    assert list(check_study(wrong.model_copy(update={"view": "LATERAL"}))) == []


def test_tiny_boxes(tmp_path: Path) -> None:
    assert codes(list(check_study(with_finding(tmp_path, boxes=(Box(40, 8, 40.5, 30),))))) == [
        ("warning", "tiny-box", "s1")
    ]


def test_labels_that_contradict_each_other(tmp_path: Path) -> None:
    denied = with_finding(tmp_path, phrase="No nodule.", disease="No Finding", boxes=(LEFT,))
    assert codes(list(check_study(denied))) == [("error", "label-conflict", "s1")]
    reads = with_finding(tmp_path, phrase="No pneumothorax.", disease="Pneumothorax")
    assert codes(list(check_study(reads))) == [("warning", "label-conflict", "s1")]
    shown = with_finding(tmp_path, phrase="Apical air.", disease="Pneumothorax", boxes=(LEFT,))
    report = shown.model_copy(update={"report": "No pneumothorax. Heart is normal."})
    assert codes(list(check_study(report))) == [("warning", "label-conflict", "s1")]


def test_empty_and_missing_reports(tmp_path: Path) -> None:
    empty, missing = study(tmp_path, "a", report=" . "), study(tmp_path, "b", report=None)
    assert codes(problems(empty, missing)) == [("warning", "empty-report", "a"), ("warning", "empty-report", "b")]
    assert problems(missing) == []  # a data set without any reports


def test_what_readers_refuse_is_an_error_unless_a_rule_leaves_it_out(tmp_path: Path) -> None:
    refused = SkippedStudy("x", "row 3: box (0, 0, 900, 9) leaves the 64x64 image")
    found = list(check_items([refused, SkippedStudy("y", "no findings section", by_rule=True)]))
    assert codes(found) == [("error", "unusable", "x")]
    assert "row 3" in found[0].what


def test_images_that_are_damaged_changed_or_of_another_size(tmp_path: Path) -> None:
    good = study(tmp_path, "a")
    other = Located(good, "here", ImageHashes("0" * 64, "0" * 64, "0" * 64))
    assert codes(list(check_items([other]))) == [("error", "changed-image", "a")]
    assert codes(problems(good.model_copy(update={"width": 90}))) == [("error", "unusable", "a")]
    good.image.write_bytes(good.image.read_bytes()[:80])
    assert codes(problems(good)) == [("error", "unusable", "a")]
