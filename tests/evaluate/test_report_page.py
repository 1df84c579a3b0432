"""The page: complete, self-contained, escaped; the choice of cases; the contact sheet."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxmed_ray.evaluate.cases import Case, ReportCase, choose_cases, contact_sheet, data_uri, thumbnail
from boxmed_ray.evaluate.report_page import write_report, write_stopped
from boxmed_ray.events import EventWriter
from boxmed_ray.tracking import MetricsWriter
from rewards.sample import BoxT
from tests.evaluate.examples import TARGET, grounding, summary

EVIL = '<script>alert("x")</script> & more'


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.tile(np.arange(0, 200, 2, dtype=np.uint8), (100, 1))).save(path)
    return path


def case(image: Path, name: str = "s", label: str = "Lung Lesion", svr: tuple[BoxT, ...] | None = (TARGET,)) -> Case:
    return Case(name, image, 100, 100, label, f"Nodule {EVIL}", (TARGET,), None, svr)


class Checker(HTMLParser):
    """Collects what a page refers to and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [v for k, v in attrs if k in {"src", "href", "xlink:href", "srcset"} and v]
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def written(folder: Path, image: Path) -> str:
    metrics = folder / "metrics.jsonl"
    with MetricsWriter(metrics) as writer:
        for step in range(1, 6):
            writer.write("svr", step, {"reward": 1 + step / 10, "iou": 0.5})
            writer.write("mcl", step, {"loss": 1 / step})
    reports = [ReportCase("s", f"Ref {EVIL}", f"Gen {EVIL}", frozenset({"Edema"}), frozenset({"Fracture"}), image)]
    path = write_report(folder, summary(), metrics, [case(image), case(image, "t", svr=None)], reports)
    assert path == folder / "report.html"
    return path.read_text()


def test_page_is_well_formed_and_refers_to_nothing_outside(tmp_path: Path, image: Path):
    page = written(tmp_path, image)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.tags["script"] == checker.tags["link"] == 0
    assert all(link.startswith(("data:", "#")) for link in checker.links)
    assert not re.search(r"url\((?!#)|@import", page)
    assert checker.tags["rect"] >= 3


def test_page_holds_figures_curves_cases_and_reports(tmp_path: Path, image: Path):
    page = written(tmp_path, image)
    for words in ("Constant box", "0.660", "0.720", "Pneumothorax", "SVR: reward", "MCL: loss", "Missed: Edema",
                  "Invented: Fracture", "unreadable", "0123abcd", "2 of 2 prompts"):  # fmt: skip
        assert words in page


def test_text_of_data_and_model_is_escaped(tmp_path: Path, image: Path):
    page = written(tmp_path, image)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_page_of_a_run_without_svr_adapter_metrics_and_cases(tmp_path: Path):
    run = summary()
    stages = run.grounding.model_copy(update={"svr": None, "adapter_off": None})
    part = run.model_copy(update={"grounding": stages, "report": None, "wilcoxon_p": None, "backbone_unchanged": None})
    page = write_report(tmp_path, part, tmp_path / "none.jsonl", [], []).read_text()
    assert "Held-out images" not in page
    assert "Training" not in page
    assert "MCL" in page


def test_a_label_below_the_constant_box_is_marked(tmp_path: Path):
    run = summary()
    stages = run.grounding.model_copy(update={"svr": grounding(0.2)})
    page = write_report(tmp_path, run.model_copy(update={"grounding": stages}), tmp_path / "m", [], []).read_text()
    assert page.count("not above the constant box") == 2


def test_cases_are_chosen_evenly_over_labels_and_quantiles_worst_first(image: Path):
    boxes = [(10.0, 10.0, 10.0 + i, 60.0) for i in range(1, 41)]
    cases = [case(image, f"a{i}", "A", (box,)) for i, box in enumerate(boxes)] + [case(image, "b", "B")]
    chosen = choose_cases(cases, 5)
    assert Counter(c.label for c in chosen) == {"A": 4, "B": 1}
    assert [c.svr_iou for c in chosen] == sorted(c.svr_iou for c in chosen)
    assert [c.svr_iou for c in chosen if c.label == "A"] == pytest.approx([6 / 40, 16 / 40, 26 / 40, 36 / 40])
    assert choose_cases(cases[::-1], 5) == chosen
    assert len(choose_cases(cases, 1000)) == len(cases)
    assert choose_cases([], 5) == []


def test_contact_sheet_is_a_png_that_shows_boxes(tmp_path: Path, image: Path):
    path = contact_sheet([case(image, str(i)) for i in range(3)], tmp_path / "sheet.png", count=3, columns=2)
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    yellow = (sheet[..., 0] > 220) & (sheet[..., 1] > 190) & (sheet[..., 2] < 120)
    assert yellow.sum() > 300
    with pytest.raises(ValueError, match="no case"):
        contact_sheet([], tmp_path / "none.png")


def test_large_images_are_made_small(tmp_path: Path):
    path = tmp_path / "large.png"
    Image.new("L", (1000, 500)).save(path)
    assert thumbnail(path).size == (384, 192)
    assert data_uri(path).startswith("data:image/jpeg;base64,")


def watch_lines(folder: Path) -> None:
    with MetricsWriter(folder / "watch.jsonl") as writer:
        for step, characters in ((1, 110.0), (6, 60.0), (11, 50.0), (16, 40.0)):
            writer.write("watch_report", step, {"reward": step / 16, "characters": characters, "held_out.bleu_2": 0.25})
    EventWriter(folder / "events.jsonl").write("pool", message="irrelevant")
    for _ in range(2):  # an update that was done again rings again
        EventWriter(folder / "events.jsonl").write("alarm", step=11, task="report", rule="length", message=EVIL)


def test_the_page_shows_alarms_and_what_was_watched_from_start_to_end(tmp_path: Path, image: Path):
    assert "Is the reward cheated?" not in written(tmp_path, image)
    watch_lines(tmp_path)
    page = written(tmp_path, image)
    assert page.count(">ALARM<") == 1
    assert "report prompts, update 11, length rule: &lt;script&gt;" in page
    assert EVIL not in page
    assert '<th scope="row">bleu_2</th><td>not rewarded</td><td>0.250</td><td>0.250</td>' in page
    assert '<th scope="row">characters of a response</th><td>habit</td><td>110.000</td><td>50.000</td>' in page


def test_a_run_without_an_alarm_says_so(tmp_path: Path, image: Path):
    watch_lines(tmp_path)
    (tmp_path / "events.jsonl").unlink()
    assert "No alarm rang." in written(tmp_path, image)


def test_a_run_that_an_alarm_stopped_has_a_page_too(tmp_path: Path):
    watch_lines(tmp_path)
    path = write_stopped(tmp_path, f"stopped: {EVIL}", tmp_path / "metrics.jsonl")
    page = path.read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert ">ALARM<" in page
    assert "stopped: &lt;script&gt;" in page
