from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxmed_ray.data.load import Dataset
from boxmed_ray.data.study import DataError
from tests.data.conftest import Read, write_lines

MASTER = [
    "StudyID,ImageID,label,boxes_count,locations,prior_study,sentence_en,split,PatientID,PatientAge,label_group",
    "s1,1_a.png,pleural effusion,1,['right'],,Right pleural effusion.,train,p1,70,effusion",
    "s1,1_a.png,pacemaker,0,[],,Pacemaker.,train,p1,70,device",
    "s2,2_b.png,Normal,0,[],,,test,p2,50,Normal",
]


def finding(**values: Any) -> dict[str, Any]:
    return {
        "sentence_en": "Right pleural  effusion.", "sentence_es": "Derrame pleural derecho.", "abnormal": True,
        "boxes": [[0.0625, 0.5, 0.375, 0.875]], "extra_boxes": [[0.1, 0.5, 0.4, 0.9]], "labels": ["pleural effusion"],
        "locations": ["right"], "progression": None,
    } | values  # fmt: skip


def root_with(tmp_path: Path, *findings: dict[str, Any], master: list[str] = MASTER, packed: bool = False) -> Path:
    root = tmp_path / "padchest-gr"
    first = list(findings) or [
        finding(),
        finding(sentence_en="Pacemaker", boxes=[], labels=["pacemaker"]),
        finding(sentence_en="No pneumothorax.", abnormal=False, boxes=[], labels=[]),
    ]
    studies = [
        {"StudyID": "s1", "ImageID": "1_a.png", "PreviousStudyID": None, "PreviousImageID": None, "findings": first},
        {"StudyID": "s2", "ImageID": "2_b.png", "PreviousStudyID": None, "PreviousImageID": None, "findings": []},
    ]
    root.mkdir(parents=True)
    (root / "grounded_reports_20240819.json").write_text(json.dumps(studies))
    table = write_lines(root / "master_table.csv", *master)
    if packed:
        with zipfile.ZipFile(root / "master_table.csv.zip", "w") as archive:
            archive.write(table, "master_table.csv")
        table.unlink()
    for name in ("1_a.png", "2_b.png"):
        path = root / "Padchest_GR_files/PadChest_GR" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20).save(path)
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_sentences_boxes_patients_and_splits_are_read(
    tmp_path: Path, load: Callable[..., Dataset], packed: bool
) -> None:
    first, second = load("padchest-gr", root_with(tmp_path, packed=packed)).studies
    assert (first.id, first.patient_id, first.split) == ("1_a", "p1", "train")
    assert first.report == "Right pleural effusion. Pacemaker. No pneumothorax."
    assert [(f.boxes, f.disease, f.region) for f in first.findings] == [
        (((4, 24, 24, 42),), "Pleural Effusion", "right lung"),
        ((), "Support Devices", None),
        ((), "No Finding", None),
    ]
    assert first.findings[0].readings == (first.findings[0].boxes, (pytest.approx((6.4, 24, 25.6, 43.2)),))
    assert first.findings[1].readings[0] == (), "the first reader drew nothing"
    assert (second.split, second.report, second.findings) == ("test", None, ())


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"boxes": [[0.5, 0.5, 0.2, 0.9]]}, r"\[0\]\.findings\[0\]\.boxes\[0\] = .*inverted"),
        ({"boxes": [[0.1, 0.5, 1.2, 0.9]]}, r"findings\[0\]\.boxes\[0\]: box .* leaves the 64x48 image"),
        ({"boxes": [[10, 20, 300, 400]]}, r"boxes\[0\] = .*must be shares of width and height"),
        ({"boxes": [[0.1, "a", 0.2, 0.3]]}, r"boxes\[0\] = 'a': not a number"),
        ({"boxes": 7}, r"findings\[0\]\.boxes = 7: must be a list"),
        ({"abnormal": "yes"}, r"findings\[0\]\.abnormal = 'yes': must be true or false"),
        ({"sentence_en": " ", "labels": []}, r"findings\[0\]\.sentence_en = ' ': no words"),
    ],
)
def test_a_bad_finding_is_named(
    tmp_path: Path, load: Callable[..., Dataset], changed: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        load("padchest-gr", root_with(tmp_path, finding(**changed)))


def test_a_sentence_that_is_missing_is_said_by_its_labels(tmp_path: Path, read: Read) -> None:
    studies, _ = read("padchest-gr", root_with(tmp_path, finding(sentence_en=None)))
    assert studies["1_a"].findings[0].phrase == "Pleural effusion."


def test_missing_files_columns_and_patients_are_named(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises(DataError, match=r"no grounded_reports_20240819\.json in it or below"):
        load("padchest-gr", tmp_path / "empty")
    root = root_with(tmp_path, master=[line.replace("PatientID", "Patient") for line in MASTER])
    with pytest.raises(DataError, match=r"master_table\.csv:1: column 'PatientID' is missing"):
        load("padchest-gr", root)
    with pytest.raises(DataError, match=r"ImageID = '2_b\.png': not in the master table"):
        load("padchest-gr", root_with(tmp_path / "b", master=MASTER[:-1]))
    (root / "master_table.csv").unlink()
    with pytest.raises(DataError, match=r"no master_table\.csv in it or below"):
        load("padchest-gr", root)
