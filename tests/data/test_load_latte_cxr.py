from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from boxmed_ray.data.load import Dataset
from boxmed_ray.data.study import DataError
from tests.data.conftest import Read, mimic_jpg, write_lines

A, B = "0a1b2c3d-aaaaaaaa-bbbbbbbb-cccccccc-dddddddd", "1a1b2c3d-aaaaaaaa-bbbbbbbb-cccccccc-dddddddd"
LABELS = "Atelectasis,Enlarged cardiac silhouette,Pleural abnormality,Support devices"
STATEMENTS = [
    f"id,dicom_id,subject_id,xmin,ymin,xmax,ymax,certainty,statement,chosen,{LABELS},image_size_x,image_size_y,split",
    f"P300R1,{A},10000032,4,28,24,40,5,Small right effusion.,True,False,False,True,False,64,48,train",
    f"P300R1,{A},10000032,20,20,50,40,3,The heart is enlarged.,True,False,True,False,False,64,48,train",
    f"P300R2,{B},11000001,4,4,20,20,4,Right  basilar atelectasis.,True,True,False,False,False,64,48,test",
]
SENTENCES = [
    "id,dicom_id,subject_id,x1,y1,x2,y2,sentence,Ann_box_index,image_size_x,image_size_y,split",
    f"P300R1,{A},10000032,2,26,26,44,Small right effusion.,0,64,48,train",
]


def root_with(tmp_path: Path, statements: list[str] = STATEMENTS, sentences: list[str] = SENTENCES) -> Path:
    root = tmp_path / "data"
    if statements:
        write_lines(root / "latte-cxr/1.0.0/bbox_statement.csv", *statements)
    if sentences:
        write_lines(root / "latte-cxr/1.0.0/etbox_sentence.csv", *sentences)
    mimic_jpg(root / "latte-cxr/1.0.0/images", 10000032, 50414267, A)
    mimic_jpg(root / "latte-cxr/1.0.0/images", 11000001, 51000001, B)
    return root


def test_boxes_of_both_tables_are_read(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    first, second = load("latte-cxr", root_with(tmp_path)).studies
    assert (first.id, first.patient_id, first.split) == (A, "10000032", "train")
    drawn, heart, looked = first.findings
    assert (drawn.phrase, drawn.boxes, drawn.disease) == (
        "Small right effusion.",
        ((4, 28, 24, 40),),
        "Pleural Effusion",
    )
    assert (heart.disease, heart.region) == ("Cardiomegaly", "cardiac silhouette")
    assert (looked.boxes, looked.disease) == (((2, 26, 26, 44),), None)
    assert (second.split, second.findings[0].phrase) == ("test", "Right basilar atelectasis.")
    assert second.findings[0].disease == "Atelectasis"


def test_one_table_alone_is_read(tmp_path: Path, read: Read) -> None:
    root = root_with(tmp_path)
    studies, _ = read("latte-cxr", root / "latte-cxr/1.0.0/etbox_sentence.csv")
    assert [f.boxes for s in studies.values() for f in s.findings] == [((2, 26, 26, 44),)]
    studies, _ = read("latte-cxr", root_with(tmp_path / "other", sentences=[]))
    assert list(studies) == [A, B]


def test_a_box_in_one_cell_is_read(tmp_path: Path, read: Read) -> None:
    lines = ["dicom_id,sentence,bbox,split", f'{A},Effusion.,"[4, 28, 24.5, 40]",train']
    studies, _ = read("latte-cxr", root_with(tmp_path, statements=[], sentences=lines))
    assert studies[A].findings[0].boxes == ((4, 28, 24.5, 40),)
    assert studies[A].patient_id == "10000032", "the patient is in the path of the image"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("4,28,24,40", "24,28,4,40", ["xmin, ymin, xmax, ymax = [24.0, 28.0, 4.0, 40.0]", "inverted"]),
        ("4,28,24,40", "4,28,99,40", ["[4.0, 28.0, 99.0, 40.0]", "leaves the 64x48 image"]),
        ("4,28,24,40", "4,28,x,40", ["column 'xmax' = 'x'", "not a number"]),
        ("Small right effusion.", "___", ["column 'statement' = '___'", "no words"]),
        ("Small right effusion.", "", ["column 'statement'", "missing or empty"]),
        ("48,train", "48,tr", ["column 'split' = 'tr'", "use train, val or test"]),
    ],
)
def test_a_bad_line_is_refused_by_file_line_value(
    tmp_path: Path, load: Callable[..., Dataset], old: str, new: str, expected: list[str]
) -> None:
    root = root_with(tmp_path, [line.replace(old, new) for line in STATEMENTS], [])
    with pytest.raises(DataError) as caught:
        load("latte-cxr", root)
    for part in ["bbox_statement.csv:2", *expected]:
        assert part in str(caught.value)


def test_an_image_in_two_splits_is_refused(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    sentences = [SENTENCES[0], SENTENCES[1].replace("train", "test")]
    with pytest.raises(
        DataError, match=r"etbox_sentence\.csv:2: split = 'test', but 'train' at .*bbox_statement\.csv:2"
    ):
        load("latte-cxr", root_with(tmp_path, sentences=sentences))


def test_missing_tables_and_columns_are_named(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises(DataError, match=r"no bbox_statement\.csv or etbox_sentence\.csv in it or below"):
        load("latte-cxr", tmp_path / "empty")
    with pytest.raises(DataError, match=r"bbox_statement\.csv:1: column 'dicom_id' is missing"):
        load("latte-cxr", root_with(tmp_path, [line.replace("dicom_id", "image") for line in STATEMENTS]))
    with pytest.raises(DataError, match=r"bbox_statement\.csv:2: column 'xmin' is missing"):
        load("latte-cxr", root_with(tmp_path, [line.replace("xmin", "left") for line in STATEMENTS]))
