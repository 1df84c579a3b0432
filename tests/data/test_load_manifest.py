from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boxmed_ray.data.load import Dataset
from boxmed_ray.data.readers.manifest import read_manifest, read_origin, write_manifest
from boxmed_ray.data.study import Box, DataError, Finding, Study
from tests.data.conftest import make_study

Load = Callable[..., Dataset]


@pytest.fixture
def studies(tmp_path: Path) -> list[Study]:
    root = tmp_path / "set"
    splits = ("train", "train", "val", "test")
    return [make_study(root, f"s{i}", split=split) for i, split in enumerate(splits)]


def _break(path: Path, line: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the study on a line (from 1, the head is line 1) of a JSONL manifest."""
    lines = path.read_text().splitlines()
    row = json.loads(lines[line - 1])
    change(row)
    lines[line - 1] = json.dumps(row)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_is_written_is_read(studies: list[Study], load: Load, tmp_path: Path, suffix: str) -> None:
    root = tmp_path / "set"
    bare = make_study(root, "bare", report=None, findings=(), view="PA", split="train")
    boxes = ((Box(1, 2, 30, 40),), ())
    read = make_study(root, "read", split="train", findings=(Finding(phrase="Mass.", boxes=boxes[0], readings=boxes),))
    write_manifest(root / f"manifest.{suffix}", [*studies, bare, read], origin={"seed": 3})
    dataset = load("manifest", root)
    assert dataset.studies == (*studies, bare, read)
    assert "readings" not in studies[0].model_dump_json(), "the digest of data without them is what it was"
    assert [study.id for study in dataset.split("val")] == ["s2"]
    assert read_origin(root / f"manifest.{suffix}") == {"seed": 3}


def test_the_table_of_concepts_is_on_record_and_a_bad_one_refused(
    studies: list[Study], load: Load, tmp_path: Path
) -> None:
    write_manifest(tmp_path / "set" / "manifest.jsonl", studies)
    table = tmp_path / "mine.toml"
    table.write_text('version = "mine-7"\nextends = "shipped"\n')
    load("manifest", tmp_path / "set", concept_table=table)
    assert read_origin(tmp_path / "cache" / "manifest.jsonl")["concept_table"] == "mine-7"
    table.write_text('version = "mine-8"\nextends = "shipped"\n[finding.a]\nregion = "toe"\n')
    with pytest.raises(DataError, match=r"mine\.toml:4: finding\.a\.region: 'toe' is unknown"):
        load("manifest", tmp_path / "set", concept_table=table)


def test_both_formats_and_any_place_give_one_hash(studies: list[Study], load: Load, tmp_path: Path) -> None:
    write_manifest(tmp_path / "set" / "manifest.jsonl", studies)
    first = load("manifest", tmp_path / "set")
    shutil.move(tmp_path / "set", tmp_path / "moved")
    moved = load("manifest", tmp_path / "moved")
    write_manifest(tmp_path / "moved" / "other.parquet", moved.studies)
    assert moved.studies[0].image.is_relative_to(tmp_path / "moved")
    assert first.hash == moved.hash == load("manifest", tmp_path / "moved" / "other.parquet").hash
    moved.studies[0].image.write_bytes(moved.studies[0].image.read_bytes() + b" ")
    assert load("manifest", tmp_path / "moved").hash != first.hash


def test_patients_are_split_where_the_manifest_names_no_split(load: Load, tmp_path: Path) -> None:
    root = tmp_path / "set"
    path = root / "manifest.jsonl"
    write_manifest(path, [make_study(root, f"s{i}", patient_id=f"p{i // 2}") for i in range(12)])
    for line in range(2, 14):
        _break(path, line, lambda row: row.pop("split"))
    dataset = load("manifest", root)
    assert dataset.split("train")
    assert dataset.split("test")
    assert not {s.patient_id for s in dataset.split("train")} & {s.patient_id for s in dataset.split("test")}


BAD: list[tuple[Callable[[dict[str, Any]], object], list[str]]] = [
    (lambda row: row.update(image="images/gone.png"), ["image:", "gone.png: no such image file", "restore it"]),
    (lambda row: row["findings"][0].update(boxes=[[1, 1, 90, 5]]), ["(1.0, 1.0, 90.0, 5.0)", "leaves the 64x64 image"]),
    (lambda row: row["findings"][0].update(boxes=[[9, 1, 3, 5]]), ["findings.0.boxes", "inverted", "x1 < x2"]),
    (lambda row: row["findings"][0].update(boxes=[[1, 2, 3]]), ["findings.0.boxes.0"]),
    (lambda row: row["findings"][0].update(boxes=[[1, 1, float("nan"), 5]]), ["findings.0.boxes"]),
    (lambda row: row["findings"][0].update(disease="Flu"), ["findings.0.disease = 'Flu'", "use one of: No Finding"]),
    (lambda row: row["findings"][0].update(region="toe"), ["findings.0.region = 'toe'", "use one of: abdomen"]),
    (lambda row: row.update(width="64"), ["width = '64'", "valid integer"]),
    (lambda row: row.update(patient_id=7), ["patient_id = 7", "valid string"]),
    (lambda row: row.update(split="dev"), ["split = 'dev'", "'train', 'val' or 'test'"]),
    (lambda row: row.update(repotr="x"), ["repotr = 'x'", "not permitted"]),
    (lambda row: row.pop("source"), ["source", "required"]),
    (lambda row: row.pop("split"), ["split = None", "in every study of a manifest or in none"]),
    (lambda row: row.update(width=65), ["s1.png: is 64x64", "width = 65", "correct the study or the image"]),
    (lambda row: row.update(id="s0"), ["id = 's0'", ":2 too", "give each study an id of its own"]),
]


@pytest.mark.parametrize(("change", "expected"), BAD)
def test_a_bad_study_is_refused_by_file_line_key_value_and_remedy(
    studies: list[Study], load: Load, tmp_path: Path, change: Callable[[dict[str, Any]], object], expected: list[str]
) -> None:
    path = tmp_path / "set" / "manifest.jsonl"
    write_manifest(path, studies)
    _break(path, 3, change)
    with pytest.raises(DataError) as caught:
        load("manifest", path)
    for part in [f"{path}:3: ", *expected, "--set data.skip_corrupt=true"]:
        assert part in str(caught.value)
    assert "\n  " not in str(caught.value), "pydantic's own layout reached the user"
    skipping = load("manifest", path, skip_corrupt=True)
    assert (len(skipping.studies), len(skipping.skipped)) == (3, 1)


@pytest.mark.parametrize(("damage", "expected"), [(lambda b: b[:900], "truncated"), (lambda b: b"x" * 500, "readable")])
def test_a_bad_image_is_refused_by_line_and_file(
    studies: list[Study], load: Load, tmp_path: Path, damage: Callable[[bytes], bytes], expected: str
) -> None:
    path = tmp_path / "set" / "manifest.jsonl"
    write_manifest(path, studies)
    studies[2].image.write_bytes(damage(studies[2].image.read_bytes()))
    with pytest.raises(DataError, match=rf"manifest\.jsonl:4: image: .*s2\.png: is .*{expected}.*copy it again"):
        load("manifest", path)


def test_a_patient_in_two_splits_is_refused_even_when_skipping(
    studies: list[Study], load: Load, tmp_path: Path
) -> None:
    path = tmp_path / "set" / "manifest.jsonl"
    write_manifest(path, studies)
    _break(path, 5, lambda row: row.update(patient_id="p-s0"))
    with pytest.raises(DataError) as caught:
        load("manifest", path, skip_corrupt=True)
    expected = [f"{path}:5: patient_id = 'p-s0'", "'test'", "'train'", f"{path}:2", "put all studies of a patient"]
    assert all(part in str(caught.value) for part in expected)


@pytest.mark.parametrize(("line", "expected"), [("{oops", "not JSON"), ("[1]", "not a study; write one JSON object")])
def test_a_line_that_is_no_study_is_refused(
    studies: list[Study], load: Load, tmp_path: Path, line: str, expected: str
) -> None:
    path = tmp_path / "set" / "manifest.jsonl"
    write_manifest(path, studies)
    path.write_text(path.read_text() + line)
    with pytest.raises(DataError, match=rf"manifest\.jsonl:6: '.*': {expected}"):
        load("manifest", path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"schema_version": 9}\n', r":1: schema_version = 9: this version reads 1"),
        ('{"id": "s"}\n', r":1: does not begin with .*schema_version"),
        ("", r":1: does not begin with"),
    ],
)
def test_a_manifest_of_another_version_is_refused(load: Load, tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "m.jsonl").write_text(content)
    with pytest.raises(DataError, match=expected):
        load("manifest", tmp_path / "m.jsonl")


def test_what_is_no_manifest_is_refused(studies: list[Study], load: Load, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root = .*neither of manifest\.jsonl and manifest\.parquet"):
        load("manifest", tmp_path / "set")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"m\.parquet: not readable as Parquet"):
        load("manifest", tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"ends in \.jsonl or \.parquet; rename"):
        load("manifest", tmp_path / "m.csv")
    for suffix in ("jsonl", "parquet"):
        write_manifest(tmp_path / "set" / f"manifest.{suffix}", studies)
    with pytest.raises(DataError, match="holds both"):
        load("manifest", tmp_path / "set")


def test_a_parquet_row_is_named_by_its_number(studies: list[Study], load: Load, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "set" / "manifest.parquet"
    write_manifest(path, studies)
    table = pq.read_table(path)
    column = table["split"].to_pylist()
    column[1] = "dev"
    pq.write_table(table.set_column(table.schema.get_field_index("split"), "split", [column]), path)
    with pytest.raises(DataError, match=r"manifest\.parquet: row 2: split = 'dev'"):
        load("manifest", path)


def test_an_image_outside_the_folder_keeps_its_absolute_path(studies: list[Study], tmp_path: Path) -> None:
    write_manifest(tmp_path / "apart" / "manifest.jsonl", studies)
    read = [item.study for item in read_manifest(tmp_path / "apart" / "manifest.jsonl")]  # type: ignore[union-attr]
    assert read == studies
