"""What a data set from elsewhere can hold: refused or handled, and nothing lost in silence."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxmed_ray.config import DataConfig
from boxmed_ray.data.load import Dataset
from boxmed_ray.data.readers import SkippedStudy, find_reader
from boxmed_ray.data.study import DataError
from tests.data import (
    test_load_chest_imagenome,
    test_load_iu_xray,
    test_load_latte_cxr,
    test_load_mimic_cxr,
    test_load_ms_cxr,
    test_load_padchest_gr,
    test_load_vindr_cxr,
)
from tests.data.conftest import mimic_jpg, write_image, write_lines

HEADER = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split"


def ms_cxr(root: Path, *names: str) -> Path:
    """MS-CXR with a good image in each split and an image of each name, which the test then spoils."""
    lines = []
    for number, name in enumerate(("good1", "good2", *names)):
        subject = 10000032 + number
        mimic_jpg(root, subject, 50414267, name)
        split = "test" if name == "good2" else "train"
        path = f"files/p10/p{subject}/s50414267/{name}.jpg"
        lines.append(f"{name},Pneumothorax,Small one.,{path},4,4,8,8,64,48,{split}")
    write_lines(root / "MS_CXR_Local_Alignment_v1.1.0.csv", HEADER, *lines)
    return root


def spoil(root: Path, name: str, data: bytes) -> None:
    next(root.rglob(f"{name}.jpg")).write_bytes(data)


def bomb(path: Path) -> bytes:
    Image.new("1", (9000, 8000)).save(path, "PNG")
    return path.read_bytes()


def animation(path: Path) -> bytes:
    frames = [Image.new("L", (64, 48), value) for value in (0, 200)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    return path.read_bytes()


def test_bad_images_are_counted_and_listed_with_reasons_and_good_ones_stay(
    tmp_path: Path, load: Callable[..., Dataset]
) -> None:
    root = ms_cxr(tmp_path / "data", "bomb", "animated", "empty", "html", "cut")
    scratch = tmp_path / "scratch"
    spoil(root, "bomb", bomb(scratch))
    spoil(root, "animated", animation(scratch))
    spoil(root, "empty", b"")
    spoil(root, "html", b"<html>Access denied</html>" * 20)
    spoil(root, "cut", next(root.rglob("good1.jpg")).read_bytes()[:700])
    with pytest.raises(DataError, match="5 studies cannot be used"):
        load("ms-cxr", root)
    dataset = load("ms-cxr", root, skip_corrupt=True)
    assert [study.id for study in dataset.studies] == ["good1", "good2"]
    written = [json.loads(line) for line in (tmp_path / "cache/skipped.jsonl").read_text().splitlines()]
    reasons = {entry["id"]: entry["reason"] for entry in written}
    for name, part in {
        "bomb": "72000000 pixels",
        "animated": "2 frames",
        "empty": "0 bytes",
        "html": "not a readable",
        "cut": "truncated or damaged",
    }.items():
        assert part in reasons[name]
    assert len(reasons) == 5


def test_unusual_images_are_read_upright_and_boxes_refer_to_what_is_seen(
    tmp_path: Path, load: Callable[..., Dataset]
) -> None:
    root = ms_cxr(tmp_path / "data", "palette", "deep", "cmyk", "turned")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    for name, image, kind in (
        ("palette", picture.convert("RGB").quantize(8), "PNG"),
        ("deep", Image.fromarray(np.asarray(picture).astype(np.uint16) * 100), "PNG"),
        ("cmyk", picture.convert("CMYK"), "JPEG"),
        ("turned", picture.transpose(Image.Transpose.ROTATE_90), "JPEG"),
    ):
        image.save(next(root.rglob(f"{name}.jpg")), kind, exif=exif if name == "turned" else b"")
    dataset = load("ms-cxr", root)
    assert {(study.width, study.height) for study in dataset.studies} == {(64, 48)}
    assert {study.findings[0].boxes for study in dataset.studies} == {((4, 4, 12, 12),)}
    assert len(dataset.studies) == 6


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "@x", "-1", "+1"])
def test_names_that_a_spreadsheet_would_run_are_left_out(
    tmp_path: Path, load: Callable[..., Dataset], name: str
) -> None:
    root = ms_cxr(tmp_path / "data", name)
    dataset = load("ms-cxr", root, skip_corrupt=True)
    assert [problem.id for problem in dataset.skipped] == [name]
    assert "must not begin with" in dataset.skipped[0].reason


def test_a_folder_that_is_linked_is_read(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    root = ms_cxr(tmp_path / "data")
    (root / "files").rename(tmp_path / "images")
    (root / "mimic-cxr-jpg").mkdir()
    (root / "mimic-cxr-jpg/files").symlink_to(tmp_path / "images")
    assert len(load("ms-cxr", root).studies) == 2


def test_links_that_lead_round_in_circles_do_not_hold_a_reader_up(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    root = ms_cxr(tmp_path / "data")
    (root / "again").symlink_to(root)
    assert len(load("ms-cxr", root).studies) == 2


BUILT: dict[str, Callable[[Path], Path]] = {
    "ms-cxr": lambda folder: test_load_ms_cxr.root_with(folder, *test_load_ms_cxr.LINES),
    "latte-cxr": test_load_latte_cxr.root_with,
    "mimic-cxr": lambda folder: test_load_mimic_cxr.root_with(folder, chexpert=test_load_mimic_cxr.labels(Edema="1")),
    "iu-xray": lambda folder: test_load_iu_xray.root_with(folder, packed=True),
    "vindr-cxr": test_load_vindr_cxr.root_with,
    "chest-imagenome": test_load_chest_imagenome.root_with,
    "padchest-gr": test_load_padchest_gr.root_with,
}
_TOKENS = (
    b"",
    b",",
    b'"',
    b"\n",
    b"\x00",
    b"\xff",
    b"nan",
    b"-1",
    b"1e999",
    b"[",
    b"{",
    b"null",
    b"../",
    b"\t",
    b"9" * 12,
)


@pytest.mark.parametrize("kind", BUILT)
def test_no_damage_to_its_files_makes_a_reader_fail_without_naming_one(tmp_path: Path, kind: str) -> None:
    """Bytes of a table, a report or an archive replaced or cut off, also inside what is gzipped."""
    root, rng = BUILT[kind](tmp_path), random.Random(kind)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix not in {".png", ".jpg"})
    for _ in range(60):
        path = rng.choice(files)
        whole = path.read_bytes()
        inside = path.suffix == ".gz" and rng.random() < 0.8
        data = bytearray(gzip.decompress(whole) if inside else whole)
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randrange(6)] = rng.choice(_TOKENS)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data) + 1) :]
        path.write_bytes(gzip.compress(data) if inside else data)
        try:
            told = [item.reason for item in find_reader(kind)(root, 0.5) if isinstance(item, SkippedStudy)]
        except DataError as error:
            told = [str(error)]
        assert all(str(root) in message for message in told)
        path.write_bytes(whole)


KINDS = [
    kind
    for kind in DataConfig.model_fields["kind"].annotation.__args__  # type: ignore[union-attr]
    if kind not in {"phantom", "manifest"}
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_reader_that_names_what_is_missing_with_a_remedy(tmp_path: Path, kind: str) -> None:
    write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"must hold|give|as published|unpack") as caught:
        list(find_reader(kind)(tmp_path, 0.5))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DataError, match=r"gone.*(no such folder|no such file)"):
        list(find_reader(kind)(tmp_path / "gone", 0.5))


@pytest.mark.parametrize("kind", KINDS)
def test_readers_read_as_they_are_asked(tmp_path: Path, kind: str) -> None:
    """Nothing is touched before the first study is asked for."""
    find_reader(kind)(tmp_path / "gone", 0.5)


@pytest.mark.parametrize("column", ["view", "source"])
@pytest.mark.parametrize("value", ["=cmd|' /C calc'!A0", "@SUM(1)", "\uff1d1", "PA\x1b[2J"])
def test_no_column_of_a_table_holds_what_a_spreadsheet_or_a_terminal_would_run(
    tmp_path: Path, load: Callable[..., Dataset], column: str, value: str
) -> None:
    row = {"id": "a", "patient_id": "p", "image": "a.png", "width": 64, "height": 64, "source": "s", column: value}
    write_image(tmp_path / "a.png")
    lines = [json.dumps({"schema_version": 1}), json.dumps(row)]
    with pytest.raises(DataError, match=f"manifest.jsonl:2: {column} = .*must not begin with"):
        load("manifest", write_lines(tmp_path / "manifest.jsonl", *lines))


def test_what_is_told_of_a_bad_study_cannot_drive_a_terminal() -> None:
    problem = SkippedStudy("a\x1b]0;b\x07", "c\n\x9bd é")
    assert (problem.id, problem.reason) == (r"a\x1b]0;b\x07", r"c\n\x9bd é")


def test_a_file_that_cannot_be_read_is_one_message(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    root = test_load_iu_xray.root_with(tmp_path)
    (root / "9.xml").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"9\.xml: cannot be read \(No such file or directory\); check"):
        load("iu-xray", root)
