"""`boxmed data build | check | show | stats`: what they print, write and refuse."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from boxmed_ray import cli
from boxmed_ray.data.readers.manifest import write_manifest
from boxmed_ray.data.study import Box, Finding, Study
from tests.data.conftest import make_study

Boxmed = Callable[..., int]


@pytest.fixture
def boxmed(monkeypatch: pytest.MonkeyPatch) -> Boxmed:
    """``boxmed data …`` in this process; returns the exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["boxmed", "data", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return run


@pytest.fixture
def good(tmp_path: Path) -> Path:
    studies = [
        make_study(tmp_path, "a"),
        make_study(tmp_path, "b", split="test", report="<b>Clear</b> & well.", findings=()),
    ]
    Image.linear_gradient("L").resize((64, 64)).save(studies[1].image)
    write_manifest(tmp_path / "manifest.parquet", studies)
    return tmp_path


def wrong(folder: Path) -> Study:
    finding = Finding(phrase="Nodule in the right lung.", boxes=(Box(40, 8, 56, 24),), disease="Lung Lesion")
    return make_study(folder, "w", findings=(finding,))


def test_check_ends_with_0_without_errors_and_1_with_one(
    boxmed: Boxmed, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert boxmed("check", good) == 0
    assert capsys.readouterr().out == "2 studies, 0 errors, 0 warnings\n"
    write_manifest(tmp_path / "bad/manifest.jsonl", [wrong(tmp_path / "bad")])
    assert boxmed("check", tmp_path / "bad") == 1
    first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"error laterality w: phrase 'Nodule in the right lung.' says right, .*; correct the .*", first)
    assert last == "1 studies, 1 errors, 0 warnings"


def test_check_across_data_sets_as_json(
    boxmed: Boxmed, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_study(tmp_path / "other", "c", split="test", source="elsewhere")  # shows what "a" shows
    write_manifest(tmp_path / "other/manifest.jsonl", [other])
    assert boxmed("check", good, tmp_path / "other", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["studies"], told["errors"], told["warnings"]) == (3, 1, 0)
    (problem,) = told["problems"]
    assert (problem["code"], problem["study"], problem["level"]) == ("duplicate-image", "c", "error")
    assert problem["remedy"]


def test_show_draws_a_sheet_and_a_page_that_needs_no_other_file(boxmed: Boxmed, good: Path, tmp_path: Path) -> None:
    assert boxmed("show", good, "--to", tmp_path / "out/sheet.png") == 0
    sheet = Image.open(tmp_path / "out/sheet.png").convert("RGB")
    assert (0xE6, 0x19, 0x4B) in {colour for _, colour in sheet.getcolors(1 << 20) or []}  # the box's
    assert boxmed("show", good, "--to", tmp_path / "out/page.html") == 0
    page = (tmp_path / "out/page.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert '<rect x="40.0" y="8.0" width="16.0" height="16.0"' in page
    assert "&lt;b&gt;Clear&lt;/b&gt; &amp; well." in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_show_shows_what_is_asked_for(boxmed: Boxmed, good: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for options, shown in (
        (("--split", "test"), ["b"]), (("--disease", "Lung Lesion"), ["a"]), (("--study", "b"), ["b"]),
    ):  # fmt: skip
        assert boxmed("show", good, "--to", page, *options) == 0
        assert re.findall(r"<h2>(.*)</h2>", page.read_text()) == shown
    first = [
        boxmed("show", good, "--to", page, "--count", "1", "--seed", seed) or page.read_text() for seed in range(9)
    ]
    assert {re.findall(r"<h2>(.*)</h2>", text)[0] for text in first} == {"a", "b"}


@pytest.mark.parametrize("plots", ["png", "svg"])
def test_stats_counts_by_split(
    boxmed: Boxmed, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], plots: str
) -> None:
    assert boxmed("stats", good, "--to", tmp_path / "out", "--plots", plots) == 0
    with (tmp_path / "out/totals.csv").open() as file:
        rows = {row[0]: row[1:] for row in csv.reader(file)}
    assert rows == {
        "": ["train", "test", "all"], "studies": ["1", "1", "2"], "patients": ["1", "1", "2"],
        "reports": ["1", "1", "2"], "findings": ["1", "0", "1"], "boxes": ["1", "0", "1"],
    }  # fmt: skip
    with (tmp_path / "out/areas.csv").open() as file:
        assert list(csv.reader(file))[1:] == [["3–10", "1", "0", "1"]]  # 16 x 16 of 64 x 64: 6.25 %
    assert (tmp_path / f"out/diseases.{plots}").stat().st_size > 1000
    assert ["studies", "1", "1", "2"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_name_that_looks_like_a_formula_of_tex_is_drawn_as_it_is(boxmed: Boxmed, tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.jsonl", [make_study(tmp_path, "a", source=r"a$\foo$b", view="x^$_$")])
    assert boxmed("stats", tmp_path, "--to", tmp_path / "out") == 0
    assert (tmp_path / "out/sources.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("check", "nowhere"), ["nowhere", "no such file or folder", "KIND=PATH"]),
        (("check", "vin=nowhere"), ["vin=nowhere", "vindr-cxr"]),
        (("check", "nih={}"), ["{}", "BBox_List_2017.csv"]),
        (("build", "nih=nowhere", "--to", "{}/to"), ["nih=nowhere", "no such file"]),
        (("build", "{}", "--to", "{}"), ["{}", "built from something else", "--to"]),
        (("show", "{}", "--to", "{}/x.gif"), ["--to '.gif'", ".png, .html"]),
        (("show", "{}", "--to", "{}/x.png", "--disease", "Gout"), ["--disease 'Gout'", "Pneumothorax"]),
        (("show", "{}", "--to", "{}/x.png", "--study", "zz"), ["no study zz"]),
        (("show", "{}", "--to", "{}/manifest.parquet/x.png"), ["cannot be written", "--to"]),
        (("stats", "{}", "--to", "{}/manifest.parquet"), ["cannot be written", "--to"]),
        (("stats", "{}", "--to", "{}/x", "--plots", "pdf"), ["--plots 'pdf'", "png, svg"]),
    ],
)
def test_what_cannot_be_done_is_one_message(
    boxmed: Boxmed, good: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], parts: list[str]
) -> None:
    assert boxmed(*(argument.format(good) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("boxmed: ")
    assert error.count("\n") == 1
    for part in parts:
        assert part.format(good) in error
