from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from boxmed_ray.data.readers import tables
from boxmed_ray.data.readers.files import DataFolder, read_json
from boxmed_ray.data.readers.tables import read_table
from boxmed_ray.data.study import DataError
from tests.data.conftest import write_image, write_lines


def test_rows_are_known_by_name_in_any_order_and_case_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.csv", "\ufeffB, a ,c", '1,"x, y",', "", ",,", "2,nan,3")
    rows = list(read_table(path, ("A", "b")))
    assert [(row.text("b"), row.get("A"), row.get("C")) for row in rows] == [("1", "x, y", None), ("2", None, "3")]
    assert [row.where for row in rows] == [f"{path}:2", f"{path}:5"]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.txt", "a.tsv.gz"])
def test_packed_and_tabbed_tables_are_read(tmp_path: Path, name: str) -> None:
    separator = "," if ".csv" in name else "\t"
    path = write_lines(tmp_path / name, f"a{separator}b", f"1{separator}2")
    assert [row.number("b") for row in read_table(path, ("a", "b"))] == [2]


def test_a_table_alone_in_a_zip_is_read_and_one_of_several_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../a.csv", "a,b\n1,2\n")
    assert [row.text("a") for row in read_table(path, ("a",))] == ["1"]
    assert list(tmp_path.iterdir()) == [path], "nothing of an archive reaches the disk"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.csv", "a\n")
    with pytest.raises(DataError, match="holds 2 tables, not one"):
        list(read_table(path, ("a",)))


def damaged(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.csv", b"a,b\n1,\xe9\n", r"a\.csv:\d: not UTF-8 text"),
        ("a.csv", b"b\n1\n", r"a\.csv:1: column 'a' is missing \(there are: b\); use the file as it is published"),
        ("a.csv", b"", r"a\.csv:1: column 'a' is missing \(there are: none\)"),
        ("a.csv.gz", gzip.compress(b"a\n" + b"1\n" * 5000, mtime=0)[:-20], r"a\.csv\.gz:\d+: not readable"),
        ("a.csv.gz", b"a,b\n1,2\n", r"a\.csv\.gz:1: not readable .*copy it again"),
        ("a.csv.zip", b"a,b\n1,2\n", r"a\.csv\.zip: cannot be read .*copy it again"),
        ("a.csv", b"a\n" + b"x" * 200_000, r"a\.csv:2: not readable \(field larger than field limit"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        list(read_table(damaged(tmp_path, name, data), ("a",)))


def test_a_table_that_unpacks_to_too_much_is_refused_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_TABLE", 1_000_000)
    bomb = damaged(tmp_path, "a.csv.gz", gzip.compress(b"a\n" + b"1\n" * 2_000_000))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"a\.csv\.gz: has more than 1000000 characters"):
        list(read_table(bomb, ("a",)))
    line = damaged(tmp_path, "b.csv.gz", gzip.compress(b"a\n" + b"1" * 20_000_000))
    with pytest.raises(DataError, match=r"b\.csv\.gz: has a line of more than 1000000 characters"):
        list(read_table(line, ("a",)))


@pytest.mark.parametrize("text", ["{", '{"a": ' + "[" * 100_000, "\xff"])
def test_json_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"a\.json: not JSON .*copy it again"):
        read_json(damaged(tmp_path, "a.json", text.encode("latin-1")))


def test_an_image_is_found_by_path_tree_or_name_whatever_its_format(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    by_path = write_image(tmp_path / "images/a.png")
    in_tree = write_image(tmp_path / "physionet.org/files/mimic/2.1.0/files/p10/p10000032/s5/b.png")
    alone = write_image(tmp_path / "somewhere/else/c.tif")
    assert folder.image("a", "x:1", "images/a.jpg") == by_path
    assert folder.image("b", "x:1", "files/p10/p10000032/s5/b.jpg") == in_tree
    assert folder.image("c", "x:1") == alone
    write_image(tmp_path / "c.png")
    with pytest.raises(DataError, match=r"x:1: 2 images .* named 'c' below .*; remove all but one"):
        DataFolder(tmp_path).image("c", "x:1")


@pytest.mark.parametrize("name", ["../a.png", "images/../../a.png", "/etc/hostname", "C:/a.png", "..\\a.png"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"x:1: image .*: lies outside .*; correct the path"):
        DataFolder(tmp_path / "data").image("a", "x:1", name)
