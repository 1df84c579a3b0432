from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boxmed_ray.data.load import Dataset
from boxmed_ray.data.study import DataError
from tests.data.conftest import Read, mimic_jpg, write_lines

A, B = "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", "174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962"
HEADER = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split"
FOLDER = "files/p10/p10000032/s50414267"
LINES = [
    f"{A},Pneumothorax,Small left apical pneumothorax,{FOLDER}/{A}.jpg,40,4,16,8,64,48,train",
    f"{A},Pneumothorax,Small left apical pneumothorax,{FOLDER}/{A}.jpg,8,4,10,8,64,48,train",
    f'{A},Pleural Effusion,"Effusion,  right ___ base",{FOLDER}/{A}.jpg,4,30,20,10,64,48,train',
    f"{B},Cardiomegaly,The heart is enlarged.,files/p11/p11000001/s51000001/{B}.jpg,20,20,30,20,64,48,test",
]


def root_with(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    """As ``wget`` leaves both downloads: the table in one project's folder, the images in another's."""
    root = tmp_path / "physionet.org" / "files"
    write_lines(root / "ms-cxr/1.1.0/MS_CXR_Local_Alignment_v1.1.0.csv", header, *lines)
    mimic_jpg(root / "mimic-cxr-jpg/2.1.0", 10000032, 50414267, A)
    mimic_jpg(root / "mimic-cxr-jpg/2.1.0", 11000001, 51000001, B)
    return root


def test_phrases_boxes_patients_and_splits_are_read(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    dataset = load("ms-cxr", root_with(tmp_path, *LINES))
    first, second = dataset.studies
    assert (first.id, first.patient_id, first.split, first.source) == (A, "10000032", "train", "ms-cxr")
    assert (second.patient_id, second.split) == ("11000001", "test")
    pneumothorax, effusion = first.findings
    assert pneumothorax.phrase == "Small left apical pneumothorax"
    assert pneumothorax.boxes == ((40, 4, 56, 12), (8, 4, 18, 12))
    assert (pneumothorax.disease, pneumothorax.region) == ("Pneumothorax", None)
    assert (effusion.phrase, effusion.boxes) == ("Effusion, right base", ((4, 30, 24, 40),))
    assert (effusion.disease, effusion.region) == ("Pleural Effusion", "right lung")
    assert second.findings[0].region == "cardiac silhouette"


def test_columns_may_stand_in_any_order_beside_others(tmp_path: Path, read: Read) -> None:
    header, cells = HEADER.split(",")[::-1], LINES[0].split(",")[::-1]
    studies, _ = read("ms-cxr", root_with(tmp_path, ",".join(["note", *cells]), header=",".join(["extra", *header])))
    assert studies[A].findings[0].boxes == ((40, 4, 56, 12),)


def test_boxes_follow_a_resized_copy(tmp_path: Path, read: Read) -> None:
    studies, _ = read("ms-cxr", root_with(tmp_path, LINES[0].replace("64,48", "256,96")))
    assert studies[A].findings[0].boxes == ((10, 2, 14, 6),)


def test_version_0_1_without_splits_takes_those_of_mimic_cxr(tmp_path: Path, read: Read) -> None:
    root = root_with(tmp_path, *(line.rsplit(",", 1)[0] for line in LINES), header=HEADER.removesuffix(",split"))
    write_lines(
        root / "mimic-cxr-jpg/2.1.0/mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split",
        f"{A},50414267,10000032,validate",
        f"{B},51000001,11000001,test",
    )
    studies, _ = read("ms-cxr", root)
    assert (studies[A].split, studies[B].split) == ("val", "test")


def as_json(tmp_path: Path, change: Callable[[dict[str, Any]], object] = lambda data: None) -> Path:
    """The same content as COCO; an image has an entry for each of its findings."""
    root = root_with(tmp_path)
    (root / "ms-cxr/1.1.0/MS_CXR_Local_Alignment_v1.1.0.csv").unlink()
    image = {"file_name": f"{A}.jpg", "width": 64, "height": 48, "num_annotations": 2, "path": f"{FOLDER}/{A}.jpg"}
    data: dict[str, Any] = {
        "info": {"version": "1.1.0"},
        "licenses": [],
        "categories": [{"id": 1, "name": "Pneumothorax"}, {"id": 2, "name": "Pleural Effusion"}],
        "images": [image | {"id": 1}, image | {"id": 2}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [40, 4, 16, 8], "label_text": "Left pneumothorax"},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": [4, 30, 20, 10], "label_text": "Right effusion"},
        ],
    }
    change(data)
    path = root / "ms-cxr/1.1.0/MS_CXR_Local_Alignment_v1.1.0.json"
    path.write_text(json.dumps(data))
    return root


def test_coco_json_is_read_and_entries_of_one_image_joined(tmp_path: Path, read: Read) -> None:
    studies, skipped = read("ms-cxr", as_json(tmp_path))
    assert list(studies) == [A]
    assert not skipped
    assert [(f.phrase, f.disease, f.boxes) for f in studies[A].findings] == [
        ("Left pneumothorax", "Pneumothorax", ((40, 4, 56, 12),)),
        ("Right effusion", "Pleural Effusion", ((4, 30, 24, 40),)),
    ]
    assert studies[A].patient_id == "10000032"


BAD = [
    (LINES[0].replace("40,4,16,8", "60,4,16,8"), ["csv:2", "[60.0, 4.0, 76.0, 12.0]", "leaves the 64x48", "correct"]),
    (LINES[0].replace("40,4,16,8", "40,4,-16,8"), ["csv:2", "'w', 'h' = -16, 8", "inverted", "above 0"]),
    (LINES[0].replace("40,4,16,8", "left,4,16,8"), ["csv:2", "column 'x' = 'left'", "not a number"]),
    (LINES[0].replace("40,4,16,8", ",4,16,8"), ["csv:2", "column 'x'", "is empty"]),
    (LINES[0].replace("40,4,16,8", "inf,4,16,8"), ["csv:2", "column 'x' = 'inf'", "not a number"]),
    (LINES[0].replace("Pneumothorax,", "Toe,"), ["csv:2", "category 'Toe'", "14 diseases"]),
    (LINES[0].replace(",train", ",fold1"), ["csv:2", "'fold1'", "use train, val or test"]),
    (LINES[0].replace(f"{FOLDER}/{A}", f"../../{A}"), ["csv:2", "lies outside", "correct the path"]),
    (LINES[0].replace(A, "lost"), ["csv:2", "no image named 'lost'", "download it or remove"]),
    (LINES[0].replace("64,48", "0,48"), ["csv:2", "'image_width', 'image_height'", "above 0"]),
]


@pytest.mark.parametrize(("line", "expected"), BAD)
def test_a_bad_line_is_refused_by_file_line_value_and_remedy(
    tmp_path: Path, load: Callable[..., Dataset], line: str, expected: list[str]
) -> None:
    root = root_with(tmp_path, line, LINES[3])
    with pytest.raises(DataError) as caught:
        load("ms-cxr", root)
    for part in ["MS_CXR_Local_Alignment_v1.1.0", *expected]:
        assert part in str(caught.value)


BAD_JSON: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: d["annotations"][0].update(image_id=9), r"annotations\[0\]\.image_id = 9: not among the images"),
    (lambda d: d["annotations"][0].update(bbox=[1, 2]), r"annotations\[0\]\.bbox = \[1, 2\]: must be"),
    (lambda d: d["annotations"][0].update(bbox=[1, 2, "a", 3]), r"annotations\[0\]\.bbox = 'a': not a number"),
    (lambda d: d["annotations"][0].update(category_id=9), r"annotations\[0\]: category 'None'"),
]


@pytest.mark.parametrize(("change", "expected"), BAD_JSON)
def test_a_bad_annotation_is_named(
    tmp_path: Path, load: Callable[..., Dataset], change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        load("ms-cxr", as_json(tmp_path, change))


def test_a_missing_file_or_column_is_named(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    with pytest.raises(DataError, match=r"no MS_CXR_Local_Alignment_v1\.1\.0\.csv or \.json in it or below"):
        load("ms-cxr", tmp_path)
    root = root_with(tmp_path, *LINES, header=HEADER.replace("label_text", "words"))
    with pytest.raises(DataError, match=r"v1\.1\.0\.csv:1: column 'label_text' is missing .*as it is published"):
        load("ms-cxr", root)
    write_lines(root / "ms-cxr/0.1/MS_CXR_Local_Alignment_v1.0.0.csv", HEADER)
    with pytest.raises(DataError, match=r"keep one, or give the folder of one as data\.root"):
        load("ms-cxr", root)
