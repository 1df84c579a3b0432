from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from boxmed_ray.data.load import Dataset
from boxmed_ray.data.study import DataError
from tests.data.conftest import Read, mimic_jpg, write_lines

A, B = "aaaa804e-bde0afdd-112c0b34-7bc16630-4e384014", "bbbb413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962"
OBJECTS = [
    "image_id,x1,y1,x2,y2,width,height,bbox_name,annot_id,original_x1,original_x2,original_y1,original_y2,"
    "original_width,original_height,annotator,coord224,coord_original",
    f'{A}.dcm,1,1,9,9,8,8,left lung,a1,36,60,4,40,24,36,W,"[1, 1, 9, 9]","[36, 4, 60, 40]"',
    f'{A}.dcm,1,1,9,9,8,8,left clavicle,a1,36,60,2,6,24,4,W,"[1, 1, 9, 9]","[36, 2, 60, 6]"',
    f"{A}.dcm,,,,,,,svc,a1,,,,,,,W,,",
    f'{B}.dcm,1,1,9,9,8,8,cardiac silhouette,a1,20,50,20,40,30,20,J,"[1, 1, 9, 9]","[20, 20, 50, 40]"',
]
ATTRIBUTES = [
    "patient_id\tstudy_id\timage_id\trow_id\tsentence\trelation\tlabel_name\tcontext\tcategoryID\tbbox\tcoord_original",
    f"10000032\t50414267\t{A}.dcm\t1\tSmall  left effusion .\t1\tpleural effusion\tyes\tanatomicalfinding\tleft lung\t"
    "[36, 4, 60, 40]",
    f"10000032\t50414267\t{A}.dcm\t2\tNo pneumothorax.\t1\tpneumothorax\tno\tanatomicalfinding\tleft lung\t"
    "[36, 4, 60, 40]",
    f"10000032\t50414267\t{A}.dcm\t3\tLeft picc.\t1\tpicc\tyes\ttubesandlines\tleft lung\t[36, 4, 60, 40]",
    f"10000032\t50414267\t{A}.dcm\t4\tAbnormal.\t1\tabnormal\tyes\tnlp\tleft lung\t[36, 4, 60, 40]",
    f"10000032\t50414267\t{A}.dcm\t5\tNot of it.\t0\tedema\tyes\tdisease\tleft lung\t[36, 4, 60, 40]",
]
RECORDS = ["subject_id,study_id,dicom_id,path,ViewPosition", f"11000001,51000001,{B},files/p11/x/{B}.dcm,AP"]


def root_with(tmp_path: Path, objects: list[str] = OBJECTS, attributes: list[str] = ATTRIBUTES) -> Path:
    root = tmp_path / "files"
    gold = root / "chest-imagenome/1.0.0/gold_dataset"
    if objects:
        write_lines(gold / "gold_bbox_coordinate_annotations_1000images.csv", *objects)
    if attributes:
        write_lines(gold / "gold_object_attribute_with_coordinates.txt", *attributes)
    write_lines(gold.parent / "utils/cxr-record-list_view.csv", *RECORDS)
    mimic_jpg(root / "mimic-cxr-jpg/2.1.0", 10000032, 50414267, A)
    mimic_jpg(root / "mimic-cxr-jpg/2.1.0", 11000001, 51000001, B)
    return root


def test_objects_and_what_is_said_of_them_are_read(tmp_path: Path, read: Read) -> None:
    studies, skipped = read("chest-imagenome", root_with(tmp_path))
    assert not skipped
    assert [(s.patient_id, s.view) for s in studies.values()] == [("10000032", None), ("11000001", "AP")]
    lung = ((36, 4, 60, 40),)
    assert [(f.phrase, f.boxes, f.disease, f.region) for f in studies[A].findings] == [
        ("Left lung.", lung, None, "left lung"),
        ("Left clavicle.", ((36, 2, 60, 6),), None, None),
        ("Small left effusion.", lung, "Pleural Effusion", "left lung"),
        ("No pneumothorax in the left lung.", (), "No Finding", "left lung"),
        ("Left picc.", lung, "Support Devices", "left lung"),
    ]
    assert studies[B].findings[0].region == "cardiac silhouette"


def test_either_table_alone_is_enough(tmp_path: Path, read: Read) -> None:
    studies, _ = read("chest-imagenome", root_with(tmp_path, attributes=[]))
    assert [f.phrase for f in studies[A].findings] == ["Left lung.", "Left clavicle."]
    studies, _ = read("chest-imagenome", root_with(tmp_path / "other", objects=[]))
    assert [f.phrase for f in studies[A].findings][:2] == ["Left lung.", "Small left effusion."]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("36,60,4,40", "60,36,4,40", ["1000images.csv:2", "inverted"]),
        ("36,60,4,40", "36,600,4,40", ["1000images.csv:2", "leaves the 64x48 image"]),
        ("36,60,4,40", "36,,4,40", ["1000images.csv:2", "column 'original_x2'", "is empty"]),
        ("bbox_name", "name", ["1000images.csv:1", "column 'bbox_name' is missing"]),
    ],
)
def test_a_bad_object_is_refused_by_file_line_value(
    tmp_path: Path, load: Callable[..., Dataset], old: str, new: str, expected: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        load("chest-imagenome", root_with(tmp_path, [line.replace(old, new) for line in OBJECTS]))
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.parametrize("written", ["[36, 4, 60]", "__import__('os').getcwd()", "[36, 'a', 60, 40]", "[" * 150])
def test_coordinates_that_are_none_are_refused_and_never_run(
    tmp_path: Path, load: Callable[..., Dataset], written: str
) -> None:
    lines = [line.replace("[36, 4, 60, 40]", written) for line in ATTRIBUTES]
    with pytest.raises(DataError, match=r"coordinates\.txt:2: column 'coord_original' = "):
        load("chest-imagenome", root_with(tmp_path, [], lines))


def test_missing_tables_are_named(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    with pytest.raises(DataError, match=r"no gold_bbox_coordinate_annotations_1000images\.csv in it or below"):
        load("chest-imagenome", root_with(tmp_path, [], []))
