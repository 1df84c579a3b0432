"""Published layouts as users have them after their tools: other column order, more columns, other line ends, packed."""

from __future__ import annotations

import csv
import gzip
import io
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boxmed_ray.data.readers import Located, SkippedStudy, find_reader
from boxmed_ray.data.readers.files import DataFolder
from boxmed_ray.data.readers.tables import read_table
from boxmed_ray.data.study import Study
from tests.data import (
    test_load_chest_imagenome,
    test_load_latte_cxr,
    test_load_mimic_cxr,
    test_load_ms_cxr,
    test_load_padchest_gr,
    test_load_vindr_cxr,
)
from tests.data.conftest import ENTRY_HEADER, Read, write_image, write_lines

BOXES = ["00000001_000.png,Nodule,512,256,128,256", "00000002_000.png,Effusion,0,512,256,256.5"]
ENTRIES = [f"0000000{i}_000.png,{label},0,{i},60,M,PA" for i, label in ((1, "Nodule"), (2, "Effusion"), (3, "Mass"))]


def nih(folder: Path, header: str = "Image Index,Finding Label,x,y,w,h") -> Path:
    write_lines(folder / "BBox_List_2017.csv", header, *BOXES)
    write_lines(folder / "Data_Entry_2017_v2020.csv", ENTRY_HEADER, *ENTRIES)
    for line in ENTRIES:
        write_image(folder / "images" / line.split(",")[0])
    return folder


BUILT: dict[str, Callable[[Path], Path]] = {
    "nih": nih,
    "ms-cxr": lambda folder: test_load_ms_cxr.root_with(folder, *test_load_ms_cxr.LINES),
    "latte-cxr": test_load_latte_cxr.root_with,
    "mimic-cxr": lambda folder: test_load_mimic_cxr.root_with(folder, chexpert=test_load_mimic_cxr.labels(Edema="1")),
    "vindr-cxr": test_load_vindr_cxr.root_with,
    "chest-imagenome": test_load_chest_imagenome.root_with,
    "padchest-gr": test_load_padchest_gr.root_with,
}


def tables(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Each table below ``root``, its text and its separator."""
    for path in sorted(root.rglob("*")):
        name = path.name.removesuffix(".gz")
        if name.endswith(".csv") or (name.startswith("gold_") and name.endswith(".txt")):
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
            yield path, text, "," if name.endswith(".csv") else "\t"


def rewritten(text: str, separator: str) -> bytes:
    """The table with a mark, Windows' line ends, everything in quotes, columns in another order and two more."""
    rows = list(csv.reader(io.StringIO(text), delimiter=separator))
    rows = [["Unnamed: 0" if n == 0 else str(n), *row, "comment" if n == 0 else 'a "remark", \n'] for n, row in
            enumerate(rows)]  # fmt: skip
    order = random.Random(1).sample(range(len(rows[0])), len(rows[0]))
    out = io.StringIO()
    lines = [[row[column] if column < len(row) else "" for column in order] for row in rows]
    csv.writer(out, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(lines)
    return b"\xef\xbb\xbf" + out.getvalue().encode()


def all_of(kind: str, root: Path) -> tuple[list[Study], list[str]]:
    items = list(find_reader(kind)(root, 0.5))
    return [item.study for item in items if isinstance(item, Located)], [
        item.id for item in items if isinstance(item, SkippedStudy)
    ]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", BUILT)
def test_rewritten_tables_are_read_as_the_published_ones(tmp_path: Path, kind: str, packed: bool) -> None:
    root = BUILT[kind](tmp_path)
    before = all_of(kind, root)
    assert before[0]
    for path, text, separator in list(tables(root)):
        data = rewritten(text, separator)
        path.unlink()
        name = path.name.removesuffix(".gz")
        if packed:
            path.with_name(f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            path.with_name(name).write_bytes(data)
    assert all_of(kind, root) == before


@pytest.mark.parametrize("kind", ["ms-cxr", "padchest-gr"])
def test_a_packed_json_file_is_read(tmp_path: Path, kind: str) -> None:
    root = test_load_ms_cxr.as_json(tmp_path) if kind == "ms-cxr" else BUILT[kind](tmp_path)
    before = all_of(kind, root)
    (path,) = root.rglob("*.json")
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
    path.unlink()
    assert all_of(kind, root) == before


def test_nih_tables_may_lie_below_the_root_and_be_packed(tmp_path: Path, read: Read) -> None:
    root = nih(tmp_path / "nih", "Image Index,Finding Label,Bbox [x,y,w,h],,,")
    before = read("nih", root)
    for name, new in (("BBox_List_2017.csv", "BBox_List_2017_Official_NIH.csv"), ("Data_Entry_2017_v2020.csv",) * 2):
        (root / "tables").mkdir(exist_ok=True)
        (root / "tables" / f"{new}.gz").write_bytes(gzip.compress((root / name).read_bytes()))
        (root / name).unlink()
    assert read("nih", root) == before
    assert len(before[0]) == 3


def test_a_zip_of_a_mac_has_one_table(tmp_path: Path) -> None:
    path = tmp_path / "master_table.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("master_table.csv", "a\n1\n")
        archive.writestr("__MACOSX/._master_table.csv", b"\x00\x05\x16\x07")
    assert [row.text("a") for row in read_table(path, ("a",))] == ["1"]


def test_a_name_that_no_file_can_have_is_one_bad_line(tmp_path: Path, read: Read) -> None:
    line = test_load_ms_cxr.LINES[0]
    path = line.split(",")[3]
    long = line.replace(path, "files/" + "a" * 300 + ".jpg")
    root = test_load_ms_cxr.root_with(tmp_path, long, *test_load_ms_cxr.LINES[1:])
    studies, skipped = read("ms-cxr", root)
    assert len(skipped) == 1
    assert "File name too long" in next(iter(skipped.values())).reason
    assert "aaaa" * 25 not in next(iter(skipped.values())).reason
    assert studies


def test_a_folder_that_cannot_be_entered_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may enter any folder, so the system's refusal is played."""
    import os

    from boxmed_ray.data.study import DataError

    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"closed: cannot be read \(Permission denied\); check its permissions"):
        DataFolder(tmp_path).find("a")
