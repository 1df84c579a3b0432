from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from boxmed_ray.data.load import Dataset
from boxmed_ray.data.readers.vindr_cxr import agreed_boxes
from boxmed_ray.data.study import Box, DataError
from tests.data.conftest import Read, write_dicom, write_image, write_lines

TRAIN = [
    "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
    "aaa,R9,Cardiomegaly,20,30,50,44",
    "aaa,R8,Cardiomegaly,22,30,52,44",
    "aaa,R10,Nodule/Mass,4.5,8,10,14",
    "aaa,R10,Aortic enlargement,30,10,40,20",
    "bbb,R9,No finding,,,,",
    "bbb,R8,No finding,,,,",
]
TEST = ["image_id,class_name,x_min,y_min,x_max,y_max", "ccc,Pleural effusion,4,30,20,44", "ddd,No finding,,,,"]
LABELS = ["image_id,rad_id,Cardiomegaly,ILD,No finding", "aaa,R9,1,1,0", "bbb,R9,0,0,1"]


def root_with(tmp_path: Path, **tables: list[str]) -> Path:
    root = tmp_path / "vindr-cxr/1.0.0"
    all_tables = {"annotations_train": TRAIN, "annotations_test": TEST, "image_labels_train": LABELS} | tables
    for name, lines in all_tables.items():
        if lines:
            write_lines(root / f"annotations/{name}.csv", *lines)
    for name in ("train/aaa", "train/bbb", "test/ccc", "test/ddd"):
        write_image(root / f"{name}.png", 64, 48)
    return root


def test_labels_boxes_and_the_data_sets_own_splits_are_read(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    dataset = load("vindr-cxr", root_with(tmp_path))
    studies = {study.id: study for study in dataset.studies}
    assert {name: study.split for name, study in studies.items()} == {
        "aaa": "train", "bbb": "train", "ccc": "test", "ddd": "test",
    }  # fmt: skip
    heart, nodule, aorta, ild = studies["aaa"].findings
    assert (heart.phrase, heart.boxes) == ("Cardiomegaly.", ((21, 30, 51, 44),)), "two readers, one heart"
    assert (nodule.phrase, nodule.disease, nodule.region) == ("Nodule/mass.", "Lung Lesion", "right lung")
    assert (aorta.disease, aorta.boxes) == (None, ((30, 10, 40, 20),))
    assert (ild.phrase, ild.boxes) == ("Ild.", ())
    assert [f.disease for f in studies["bbb"].findings] == ["No Finding"]
    assert studies["ccc"].findings[0].boxes == ((4, 30, 20, 44),)
    assert studies["aaa"].report is None
    assert heart.readings == (((20, 30, 50, 44),), ((22, 30, 52, 44),), ()), "R9, R8, and R10, who saw another thing"
    assert (ild.readings, studies["ccc"].findings[0].readings) == ((), ()), "no boxes; a consensus names no reader"


def test_readers_who_see_the_same_place_make_one_box() -> None:
    one, near, far = Box(0, 0, 10, 10), Box(1, 0, 11, 10), Box(30, 30, 40, 40)
    assert agreed_boxes([("R1", one), ("R2", near), ("R3", far)]) == ((0.5, 0, 10.5, 10), far)
    assert agreed_boxes([("R1", one), ("R1", near)]) == (one, near), "one reader means two places by two boxes"
    assert agreed_boxes([("", one), ("", near)]) == (one, near), "a consensus stays as it is"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("20,30,50,44", "50,30,20,44", ["annotations_train.csv:2", "x_min, y_min, x_max, y_max = [50.0", "inverted"]),
        ("20,30,50,44", "20,30,50,440", ["annotations_train.csv:2", "leaves the 64x48 image"]),
        ("20,30,50,44", "20,30,,44", ["annotations_train.csv:2", "column 'x_max'", "is empty"]),
        ("R9,Cardiomegaly", "R9,Toe", ["annotations_train.csv:2", "'class_name' = 'Toe'", "correct it"]),
        ("aaa,R9", "gone,R9", ["annotations_train.csv:2", "no image named 'gone'"]),
        ("aaa,R9", ",R9", ["annotations_train.csv:2", "column 'image_id': is empty"]),
        ("class_name", "label", ["annotations_train.csv:1", "column 'class_name' is missing"]),
    ],
)
def test_a_bad_line_is_refused_by_file_line_value_and_remedy(
    tmp_path: Path, load: Callable[..., Dataset], old: str, new: str, expected: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        load("vindr-cxr", root_with(tmp_path, annotations_train=[line.replace(old, new) for line in TRAIN]))
    for part in expected:
        assert part in str(caught.value)


def test_missing_tables_are_named(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    with pytest.raises(DataError, match=r"no annotations_train\.csv or annotations_test\.csv in it or below"):
        load("vindr-cxr", root_with(tmp_path, annotations_train=[], annotations_test=[]))


def test_identifiers_of_a_dicom_reach_neither_manifest_nor_messages(
    tmp_path: Path, load: Callable[..., Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    root = root_with(tmp_path)
    for name in ("train/aaa", "train/bbb"):
        (root / f"{name}.png").unlink()
        write_dicom(root / f"{name}.dicom", np.arange(48 * 64).reshape(48, 64), "MONOCHROME1")
    damaged = root / "train/bbb.dicom"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    dataset = load("vindr-cxr", root, skip_corrupt=True)
    assert [study.id for study in dataset.studies] == ["aaa", "ccc", "ddd"]
    assert [problem.id for problem in dataset.skipped] == ["bbb"]
    assert "its DICOM pixels cannot be decoded" in dataset.skipped[0].reason
    written = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert b"aaa" in written
    assert b"Secret" not in written
    assert "Secret" not in caplog.text


def test_one_split_alone_is_read(tmp_path: Path, read: Read) -> None:
    studies, _ = read("vindr-cxr", root_with(tmp_path, annotations_train=[], image_labels_train=[]))
    assert list(studies) == ["ccc", "ddd"]
