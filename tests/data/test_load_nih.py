from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from boxmed_ray.data.load import Dataset
from boxmed_ray.data.study import DataError
from tests.data.conftest import BOX_HEADER, write_image

Nih = Callable[..., Path]
Load = Callable[..., Dataset]

GOOD_BOX = "00000001_000.png,Nodule,512,256,128,256,,,"


def test_boxes_come_from_the_published_grid_onto_the_stored_image(nih: Nih, load: Load) -> None:
    study = load("nih", nih(boxes=[GOOD_BOX])).studies[0]
    nodule, infiltrate = study.findings
    # 512/8, 256/8, 640/8, 512/8: the images are 128 px wide, the grid 1024.
    assert nodule.boxes == ((64, 32, 80, 64),)
    assert (nodule.phrase, nodule.disease, nodule.region) == ("Nodule.", "Lung Lesion", "left lung")
    assert (infiltrate.phrase, infiltrate.disease, infiltrate.boxes) == ("Infiltrate.", "Lung Opacity", ())
    assert study.report == "Nodule. Infiltrate."
    assert (study.id, study.patient_id, study.view) == ("00000001_000", "1", "PA")


def test_both_spellings_of_infiltration_are_one_finding(nih: Nih, load: Load) -> None:
    boxes = [GOOD_BOX, "00000001_000.png,Infiltrate,10,300,100,100,,,"]
    study = load("nih", nih(boxes=boxes)).studies[0]
    assert [(f.phrase, len(f.boxes)) for f in study.findings] == [("Nodule.", 1), ("Infiltrate.", 1)]


def test_two_boxes_of_a_label_on_two_sides_have_no_single_region(nih: Nih, load: Load) -> None:
    study = load("nih", nih(boxes=[GOOD_BOX, "00000001_000.png,Nodule,100,300,50,50,,,"])).studies[0]
    assert len(study.findings[0].boxes) == 2
    assert study.findings[0].region is None


def test_only_an_image_without_finding_denies(nih: Nih, load: Load) -> None:
    first, *clear = load("nih", nih(boxes=[GOOD_BOX])).studies
    assert "No " not in (first.report or "")
    assert all((study.report or "").count("No ") == len(study.findings) == 8 for study in clear)


@pytest.mark.parametrize(
    "header", [BOX_HEADER, 'Image Index,Finding Label,"Bbox [x,y,w,h]",,,', "Image Index,Finding Label,Bbox [x,y,w,h]"]
)
def test_the_odd_header_is_read_as_published_and_as_rewritten(nih: Nih, load: Load, header: str) -> None:
    assert len(load("nih", nih(boxes=[GOOD_BOX], header=header)).studies) == 8


def test_a_split_never_depends_on_seed_or_on_other_patients(nih: Nih, load: Load) -> None:
    root = nih(boxes=[GOOD_BOX])
    before = {study.patient_id: study.split for study in load("nih", root).studies}
    entries = root / "Data_Entry_2017_v2020.csv"
    entries.write_text(entries.read_text() + "00000077_000.png,No Finding,0,77,60,M,AP,2500,2048,0.168,0.168\n")
    write_image(root / "elsewhere" / "00000077_000.jpeg")
    after = {study.patient_id: study.split for study in load("nih", root).studies}
    assert before.items() < after.items()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("00000001_000.png,Nodule,1000,256,128,256,,,", ["1000, 256, 128, 256", "leaves the 1024x1024", "correct"]),
        ("00000001_000.png,Nodule,-3,256,128,256,,,", ["'x'", "-3", "leaves", "correct"]),
        ("00000001_000.png,Nodule,512,256,-128,256,,,", ["'w', 'h'", "-128", "inverted", "must be above 0"]),
        ("00000001_000.png,Nodule,512,256,0,256,,,", ["0, 256", "empty"]),
        ("00000001_000.png,Nodule,nan,256,10,256,,,", ["column 'x' = 'nan'", "not a number", "correct"]),
        ("00000001_000.png,Nodule,512,abc,128,256,,,", ["column 'y' = 'abc'", "not a number", "correct"]),
        ("00000001_000.png,Nodul,512,256,128,256,,,", ["column 'Finding Label' = 'Nodul'", "use one of", "Nodule"]),
        ("00000001_000.png,Nodule,512,256", ["needs image, label, x, y, w, h", "complete the line"]),
        ("00000099_000.png,Nodule,512,256,128,256,,,", ["'00000099_000'", "not in Data_Entry", "add its line"]),
    ],
)
def test_a_bad_box_line_is_refused_by_file_line_column_value_and_remedy(
    nih: Nih, load: Load, line: str, expected: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        load("nih", nih(boxes=[GOOD_BOX, "", line]))
    message = str(caught.value)
    assert "BBox_List_2017.csv:4: " in message
    assert "--set data.skip_corrupt=true" in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("00000001_000.png,Nodule|Fluff,0,1,60,M,PA", ["'Finding Labels' = 'Fluff'", "use one of", "Nodule"]),
        ("00000001_000.png,No Finding|Mass,0,1,60,M,PA", ["No Finding beside a finding", "correct"]),
        ("00000001_000.png,Nodule,0,,60,M,PA", ["'Patient ID': is empty", "complete"]),
        ("00000001_000.png,Nodule", ["'Patient ID': is empty", "complete"]),
    ],
)
def test_a_bad_entry_line_is_refused_by_file_line_column_value_and_remedy(
    nih: Nih, load: Load, line: str, expected: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        load("nih", nih(entries=["00000002_000.png,No Finding,0,2,60,M,PA", line]))
    for part in ["Data_Entry_2017_v2020.csv:3: ", *expected]:
        assert part in str(caught.value)


def test_an_image_listed_twice_names_both_lines(nih: Nih, load: Load) -> None:
    lines = [f"0000000{i}_000.png,No Finding,0,{i},60,M,PA" for i in (1, 2, 1)]
    with pytest.raises(DataError, match=r"csv:4: id = '00000001_000'.*csv:2 too; give each"):
        load("nih", nih(entries=lines))


def test_a_missing_image_is_refused(nih: Nih, load: Load) -> None:
    root = nih()
    (root / "images" / "00000003_000.png").unlink()
    with pytest.raises(DataError, match=r"csv:4: column 'Image Index' = '00000003_000\.png': no image.*download"):
        load("nih", root)


def test_two_images_of_one_stem_are_refused(nih: Nih, load: Load) -> None:
    root = nih()
    write_image(root / "more" / "00000003_000.jpg")
    with pytest.raises(DataError, match=r"csv:4: .*2 images .*00000003_000\.jpg.*remove all but one"):
        load("nih", root)


def test_a_truncated_image_is_refused(nih: Nih, load: Load) -> None:
    root = nih()
    path = root / "images" / "00000003_000.png"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"csv:4: image: .*00000003_000\.png: is truncated.*copy it again"):
        load("nih", root)


def test_missing_files_and_columns_are_refused(nih: Nih, load: Load, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root = .*no such folder; give the folder"):
        load("nih", tmp_path / "nowhere")
    root = nih()
    entries = root / "Data_Entry_2017_v2020.csv"
    entries.write_text(entries.read_text().replace("Patient ID", "Patient"))
    with pytest.raises(DataError, match=r"csv:1: column 'Patient ID' is missing .*use the file as it is"):
        load("nih", root)
    boxes = root / "BBox_List_2017.csv"
    boxes.write_text("image,label\n")
    with pytest.raises(DataError, match=r"BBox_List_2017\.csv:1: the header is 'image,label'"):
        load("nih", root)
    for path in (entries, boxes):
        path.unlink()
        with pytest.raises(DataError, match=rf"no {path.name} in it or below; data\.root must hold"):
            load("nih", root)


def test_a_file_in_another_encoding_is_refused_by_its_line(nih: Nih, load: Load) -> None:
    root = nih()
    with (root / "BBox_List_2017.csv").open("ab") as file:
        file.write(b"\xff\xfe\x00bad")
    with pytest.raises(DataError, match=r"BBox_List_2017\.csv:\d+: not UTF-8 text"):
        load("nih", root)


def test_a_folder_without_images_is_refused(nih: Nih, load: Load) -> None:
    root = nih()
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no image below it; unpack"):
        load("nih", root)


def test_corrupt_studies_are_skipped_counted_and_listed_on_request(nih: Nih, load: Load, tmp_path: Path) -> None:
    root = nih(boxes=["00000001_000.png,Nodule,512,256,-1,9,,,"])
    (root / "images" / "00000004_000.png").write_bytes(b"\x89PNG")
    dataset = load("nih", root, skip_corrupt=True)
    assert len(dataset.studies) == 6
    assert [skipped.id for skipped in dataset.skipped] == ["00000001_000", "00000004_000"]
    listed = (tmp_path / "cache" / "skipped.jsonl").read_text().splitlines()
    assert len(listed) == 2
    assert "BBox_List_2017.csv:2" in listed[0]


def test_many_bad_studies_are_counted_and_a_few_are_named(nih: Nih, load: Load) -> None:
    root = nih()
    for path in (root / "images").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(DataError, match="and 3 more\n8 studies cannot be used") as caught:
        load("nih", root)
    assert str(caught.value).count("\n") == 6


def test_nothing_left_to_train_on_is_refused(nih: Nih, load: Load) -> None:
    with pytest.raises(DataError, match=r"no study in split 'test'.*data\.test_share = 0\.0"):
        load("nih", nih(), test_share=0.0)
