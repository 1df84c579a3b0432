from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from boxmed_ray.data.load import Dataset
from boxmed_ray.data.study import DataError
from rewards.categories import CATEGORIES
from tests.data.conftest import Read, mimic_jpg, write_lines

A, A2, B, C = (f"{digit}2aa804e-bde0afdd-112c0b34-7bc16630-4e384014" for digit in "0123")
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 FINDINGS:

 There is no focal  consolidation, pleural effusion or pneumothorax.  Heart size
 is normal.

 IMPRESSION:

 No acute cardiopulmonary process.
"""
META = [
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime",
    f"{A},10000032,50414267,CHEST (PA AND LAT),PA,48,64,21800506,213014.531",
    f"{A2},10000032,50414267,CHEST (PA AND LAT),LATERAL,48,64,21800506,213014.531",
    f"{B},11000001,51000001,CHEST (PORTABLE AP),AP,48,64,21800626,165500.312",
    f"{C},11000001,51000002,CHEST (PORTABLE AP),,48,64,21800626,165500.312",
]
SPLIT = [
    "dicom_id,study_id,subject_id,split",
    f"{A},50414267,10000032,train",
    f"{A2},50414267,10000032,train",
    f"{B},51000001,11000001,test",
    f"{C},51000002,11000001,test",
]


def labels(**marked: str) -> list[str]:
    """CheXpert's table with one study; names in ``marked`` have _ for a space."""
    names = sorted(CATEGORIES)
    cells = [marked.get(name.replace(" ", "_"), "") for name in names]
    return [",".join(["subject_id", "study_id", *names]), ",".join(["10000032", "50414267", *cells])]


def root_with(tmp_path: Path, reports: bool = True, **tables: list[str]) -> Path:
    """Both projects as PhysioNet lays them out, below one folder."""
    root = tmp_path / "files"
    jpg, txt = root / "mimic-cxr-jpg/2.1.0", root / "mimic-cxr/2.1.0"
    for name, lines in ({"metadata": META, "split": SPLIT} | tables).items():
        write_lines(jpg / f"mimic-cxr-2.0.0-{name}.csv.gz", *lines)
    for line in META[1:]:
        dicom, subject, study = line.split(",")[:3]
        mimic_jpg(jpg, int(subject), int(study), dicom)
        if reports:
            text = REPORT.replace("FINDINGS:", "INDICATION:") if dicom == C else REPORT
            write_lines(txt / f"files/p{subject[:2]}/p{subject}/s{study}.txt", text)
    return root


def test_images_have_the_findings_of_their_report_views_and_official_splits(
    tmp_path: Path, load: Callable[..., Dataset]
) -> None:
    dataset = load("mimic-cxr", root_with(tmp_path))
    assert [(s.id, s.patient_id, s.view, s.split) for s in dataset.studies] == [
        (A, "10000032", "PA", "train"),
        (A2, "10000032", "LATERAL", "train"),
        (B, "11000001", "AP", "test"),
    ]
    expected = "There is no focal consolidation, pleural effusion or pneumothorax. Heart size is normal."
    assert {study.report for study in dataset.studies} == {expected}
    (left_out,) = dataset.skipped
    assert (left_out.id, left_out.by_rule) == (C, True)
    assert "metadata.csv.gz:5: report s51000002: no findings section" in left_out.reason
    assert "by_rule" in (tmp_path / "cache/skipped.jsonl").read_text()


def test_labels_become_findings_and_denials(tmp_path: Path, read: Read) -> None:
    chexpert = labels(Pneumonia="1.0", Edema="-1.0", Pleural_Effusion="0.0", Pleural_Other="0.0")
    root = root_with(tmp_path, chexpert=chexpert, negbio=labels(Fracture="1.0"))
    studies, _ = read("mimic-cxr", root)
    assert [(f.phrase, f.disease) for f in studies[A].findings] == [
        ("Pneumonia.", "Pneumonia"),
        ("No pleural effusion.", "No Finding"),
        ("No other pleural abnormality.", "No Finding"),
    ]
    assert studies[B].findings == ()
    next(root.rglob("*chexpert*")).unlink()
    studies, _ = read("mimic-cxr", root)
    assert [(f.phrase, f.disease) for f in studies[A].findings] == [("Fracture.", "Fracture")]


def test_reports_are_read_from_the_published_zip(tmp_path: Path, read: Read) -> None:
    root = root_with(tmp_path, reports=False)
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as archive:
        archive.writestr("files/p10/p10000032/s50414267.txt", REPORT)
        archive.writestr("../p11/p11000001/s51000001.txt", REPORT)
    studies, skipped = read("mimic-cxr", root)
    assert list(studies) == [A, A2]
    assert "no report p11/p11000001/s51000001.txt below" in skipped[B].reason
    assert not skipped[B].by_rule


def test_a_damaged_zip_of_reports_is_named(tmp_path: Path, read: Read) -> None:
    root = root_with(tmp_path, reports=False)
    (root / "mimic-cxr-reports.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"mimic-cxr-reports\.zip: not a readable zip"):
        read("mimic-cxr", root)


def test_a_report_in_another_encoding_is_read(tmp_path: Path, read: Read) -> None:
    root = root_with(tmp_path)
    path = root / "mimic-cxr/2.1.0/files/p10/p10000032/s50414267.txt"
    path.write_bytes("FINDINGS:\r\n Heart\xa0size is normal \x96 35\xb0.\r\n".encode("latin-1"))
    studies, _ = read("mimic-cxr", root)
    assert studies[A].report == "Heart size is normal 35°."


def test_without_a_split_table_patients_are_held_out_as_for_ms_cxr(tmp_path: Path, read: Read) -> None:
    from boxmed_ray.data.readers import split_by_patient

    root = root_with(tmp_path)
    next(root.rglob("*split.csv.gz")).unlink()
    studies, _ = read("mimic-cxr", root)
    assert {s.split for s in studies.values() if s.patient_id == "10000032"} == {
        split_by_patient("mimic-cxr", "10000032", 0.5)
    }


@pytest.mark.parametrize(
    ("table", "old", "new", "expected"),
    [
        ("metadata", "50414267", "50414268", ["metadata.csv.gz:2", "no report p10/p10000032/s50414268.txt"]),
        ("metadata", "10000032", "../../etc", ["metadata.csv.gz:2", "must be digits"]),
        ("metadata", f"{A},", "0,", ["metadata.csv.gz:2", "no image named '0'"]),
        ("metadata", f"{A},", ",", ["metadata.csv.gz:2", "column 'dicom_id': is empty"]),
        ("metadata", "subject_id", "patient", ["metadata.csv.gz:1", "column 'subject_id' is missing"]),
        ("split", "train", "fold", ["split.csv.gz:2", "'fold'", "use train, val or test"]),
    ],
)
def test_a_bad_table_is_refused_by_file_line_value_and_remedy(
    tmp_path: Path, load: Callable[..., Dataset], table: str, old: str, new: str, expected: list[str]
) -> None:
    lines = [line.replace(old, new) for line in (META if table == "metadata" else SPLIT)]
    with pytest.raises(DataError) as caught:
        load("mimic-cxr", root_with(tmp_path, **{table: lines}))
    for part in expected:
        assert part in str(caught.value)


def test_a_label_that_is_none_is_refused(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    root = root_with(tmp_path, chexpert=labels(Edema="2"))
    with pytest.raises(DataError, match=r"chexpert\.csv\.gz:2: column 'Edema' = '2': must be 1, 0, -1 or empty"):
        load("mimic-cxr", root)


def test_missing_tables_and_reports_are_named(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises(DataError, match=r"no mimic-cxr-2\.0\.0-metadata\.csv\.gz in it or below"):
        load("mimic-cxr", tmp_path / "empty")


def annotation(folder: Path, **entry: object) -> Path:
    """MIMIC-CXR as work on report generation passes it on."""
    image = f"p10/p10000032/s50414267/{A}.jpg"
    mimic_jpg(folder, 10000032, 50414267, A)
    (folder / "files").rename(folder / "images")
    good = {"id": A, "study_id": 50414267, "subject_id": 10000032, "report": REPORT, "image_path": [image]}
    splits = {"train": [good | entry], "val": [], "test": []}
    (folder / "annotation.json").write_text(json.dumps(splits))
    return folder


def test_the_shared_annotation_is_read(tmp_path: Path, read: Read) -> None:
    root = annotation(tmp_path)  # with the whole report
    whole = "There is no focal consolidation, pleural effusion or pneumothorax. Heart size is normal."
    assert read("mimic-cxr", root)[0][A].report == whole
    splits = json.loads((root / "annotation.json").read_text())
    splits["train"][0]["report"] = "Heart  size is\nnormal ."
    (root / "annotation.json").write_text(json.dumps(splits))
    studies, skipped = read("mimic-cxr", root)
    assert not skipped
    assert (studies[A].patient_id, studies[A].split, studies[A].report) == (
        "10000032",
        "train",
        "Heart size is normal.",
    )


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"report": None}, r"train\[0\]\.report = None: must be text"),
        ({"image_path": []}, r"train\[0\]\.image_path = \[\]: must be a list of image files"),
        ({"image_path": ["../../x.jpg"]}, r"train\[0\]\.image_path\[0\]: image .*: lies outside"),
        ({"image_path": ["gone.jpg"]}, r"no image named 'gone'"),
        ({"subject_id": None}, r"train\[0\]: has no patient"),
        ({"id": None}, r"train\[0\]: must be an object with id"),
    ],
)
def test_a_bad_entry_of_the_annotation_is_named(
    tmp_path: Path, load: Callable[..., Dataset], entry: dict[str, object], expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        load("mimic-cxr", annotation(tmp_path / "r2gen", **entry))
