"""The page in a real browser, over a service that answers as a served run does but without an engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from serve.api import build_app
from serve.desk import Observer, Settings
from serve.grounded import GroundedReport, Wanted, split_sentences
from serve.images import Radiograph
from serve.questions import Completion, Listener, Question
from serve.schemas import ModelInfo, Sentence
from serve.security import Limits
from tests.integration.serving import free_port, png
from tests.serve import hostile
from tests.serve.tiny_run import REPORT, radiograph

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
    pytest.mark.timeout(180),
]
ROOT = Path(__file__).parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


class Answering:
    """Writes one report word by word; its first sentence has a box."""

    side, answer_tokens, adapters = 56, 64, ("tiny",)

    def __init__(self) -> None:
        self.observer = Observer()

    def model(self, adapter: str) -> ModelInfo:
        return ModelInfo(name="tiny", backbone_version="b", adapter="a", adapter_version="v", weight_version=1)

    def check(self) -> None:
        pass

    async def report(
        self, radiograph: Radiograph, wanted: Wanted, told: Callable[[str], None] | None = None
    ) -> GroundedReport:
        for word in REPORT.split(" ") if told else ():
            told(f"{word} ")  # type: ignore[misc]
        width, height = radiograph.width, radiograph.height
        boxes: list[Any] = [[(width / 2, height / 4, 3 * width / 4, height / 2)], [], None]
        sentences = [
            Sentence(
                text=text, disease=None, region=None, boxes=box, reasoning="x", malformed=box is None, truncated=False
            )
            for text, box in zip(split_sentences(REPORT), boxes, strict=True)
        ]
        return GroundedReport(REPORT, False, sentences, 1.0, 1.0)

    async def locate(self, radiograph: Radiograph, phrase: str) -> Sentence:
        return Sentence.not_located(phrase)

    async def ask(self, image: Any, question: Question, listener: Listener | None = None) -> Completion:
        if listener is not None:
            listener(0, REPORT)
        return Completion(REPORT, False, 5, 0, 5)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    settings = Settings(feedback=tmp_path / "feedback", feedback_images=True)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(build_app(Answering(), Limits(), settings), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        yield page
        browser.close()
        assert errors == []


def choose(page: Any, name: str, data: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": data})


def test_a_report_appears_and_a_sentence_shows_its_box(page: Any) -> None:
    assert "Research use only" in page.inner_text("header")
    choose(page, "x.png", png(300, 200))
    page.wait_for_selector("#sentences li")
    assert page.locator("#sentences .words").all_inner_texts() == split_sentences(REPORT)
    rectangle = page.locator("#boxes rect")
    assert rectangle.count() == 1
    page.hover("#sentences li >> nth=1")
    assert "shown" not in (rectangle.get_attribute("class") or "")
    page.hover("#sentences li >> nth=0")
    assert "shown" in rectangle.get_attribute("class")
    drawn, image = rectangle.bounding_box(), page.locator("#image").bounding_box()
    # [150, 50, 225, 100] of 300 x 200, wherever the image lies on the screen.
    assert (drawn["x"] - image["x"]) / image["width"] == pytest.approx(0.5, abs=0.01)
    assert drawn["width"] / image["width"] == pytest.approx(0.25, abs=0.01)
    assert (drawn["y"] - image["y"]) / image["height"] == pytest.approx(0.25, abs=0.01)


def test_it_can_be_used_by_keyboard_alone(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "drop"
    # The browser's own dialogue cannot be used from here: that it is asked for is what can be seen.
    page.evaluate("document.getElementById('file').addEventListener('click', (event) => {"
                  " event.preventDefault(); document.body.dataset.asked = 'yes'; })")  # fmt: skip
    page.keyboard.press("Enter")
    assert page.get_attribute("body", "data-asked") == "yes"
    choose(page, "x.png", png(300, 200))
    page.wait_for_selector("#sentences li")
    reached: set[str] = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName + '.' + "
                                  "document.activeElement.className"))  # fmt: skip
    assert {
        "other",
        "zoom-in",
        "zoom-out",
        "fit",
        "level",
        "width",
        "reset",
        "copy",
        "download",
        "BUTTON.say",
    } <= reached
    assert any(name.startswith("LI.") for name in reached)


def test_zoom_and_window_change_what_is_seen(page: Any) -> None:
    pixels = np.asarray(radiograph(300, 200)).astype(np.uint16) * 16
    choose(page, "x.dcm", hostile.dicom(pixels))
    page.wait_for_selector("#sentences li")
    before = page.locator("#image").bounding_box()["width"]
    page.click("#zoom-in")
    assert page.locator("#image").bounding_box()["width"] == pytest.approx(1.25 * before, rel=0.01)
    grey = "document.getElementById('image').getContext('2d').getImageData(150, 100, 1, 1).data[0]"
    seen = page.evaluate(grey)
    # The value itself, on the scale from the least to the greatest of the file.
    expected = 255 * (float(pixels[100, 150]) - pixels.min()) / (pixels.max() - pixels.min())
    assert seen == pytest.approx(expected, abs=1.5)
    page.evaluate("(() => { const l = document.getElementById('level'); l.value = 65535;"
                  " l.dispatchEvent(new Event('input')); })()")  # fmt: skip
    assert page.evaluate(grey) < seen
    page.click("#reset")
    assert page.evaluate(grey) == seen


def test_a_verdict_with_a_redrawn_box_is_kept(page: Any, tmp_path: Path) -> None:
    choose(page, "x.png", png(300, 200))
    page.wait_for_selector("#sentences li")
    page.click("#sentences .say >> nth=0")
    page.check("input[value=wrong]")
    page.fill("#corrected", "There is a nodule in the right lung.")
    page.click("#redraw")
    area = page.locator("#boxes").bounding_box()
    page.mouse.move(area["x"] + 0.1 * area["width"], area["y"] + 0.2 * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + 0.4 * area["width"], area["y"] + 0.7 * area["height"], steps=4)
    page.mouse.up()
    page.click("#verdict button[type=submit]")
    page.wait_for_selector("#status:has-text('Thank you')")
    (line,) = [json.loads(line) for line in (tmp_path / "feedback" / "feedback.jsonl").read_text().splitlines()]
    assert (line["verdict"], line["corrected"]) == ("wrong", "There is a nodule in the right lung.")
    assert line["boxes"][0] == pytest.approx([30, 40, 120, 140], abs=2)


def test_a_file_that_is_no_image_is_told_in_words(page: Any) -> None:
    choose(page, "x.png", b"not an image at all" * 20)
    page.wait_for_selector("#status.failed")
    assert "choose a PNG, JPEG or DICOM file" in page.inner_text("#status")


def test_a_box_is_redrawn_by_keyboard_alone(page: Any, tmp_path: Path) -> None:
    choose(page, "x.png", png(300, 200))
    page.wait_for_selector("#sentences li")
    page.focus("#sentences .say >> nth=0")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.name") == "verdict"
    page.focus("#redraw")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "boxes"
    for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.id") == "redraw"
    page.focus("#verdict button[type=submit]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#status:has-text('Thank you')")
    line = json.loads((tmp_path / "feedback" / "feedback.jsonl").read_text())
    # [150, 50, 225, 100] of 300 x 200, a fiftieth to the left and down, and a fiftieth wider.
    assert line["boxes"][0] == pytest.approx([144, 54, 225, 104], abs=0.1)
    assert line["model"]["adapter_version"] == "v"


def test_a_stream_that_breaks_off_is_told(page: Any) -> None:
    page.route("**/v1/reports", lambda route: route.fulfill(
        status=200, headers={"content-type": "text/event-stream"}, body='event: text\ndata: "There"\n\n'
    ))  # fmt: skip
    choose(page, "x.png", png(300, 200))
    page.wait_for_selector("#status.failed")
    assert "choose the image again" in page.inner_text("#status")


def test_copy_takes_the_report_and_says_where_it_cannot(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    choose(page, "x.png", png(300, 200))
    page.wait_for_selector("#sentences li")
    page.click("#copy")
    page.wait_for_selector("#status:has-text('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == REPORT
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as over plain http
    page.click("#copy")
    page.wait_for_selector("#status.failed:has-text('use Download')")


def test_the_interface_is_shown_without_another_server(page: Any, address: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}docs")
    page.wait_for_selector("summary:has-text('POST /v1/reports')")
    assert all(url.startswith((address, "data:")) for url in asked)
    page.click("summary:has-text('POST /v1/ground')")
    shown = page.locator("details[id='post/v1/ground']").inner_text()
    assert "A finding or a sentence of a report." in shown
    assert "Small opacity in the left lung." in shown


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_line_of_the_readme_works_as_typed(address: str, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(png(600, 400))
    line = f"curl -s -F image=@{file} {address}v1/reports"
    out = subprocess.run(line.split(), capture_output=True, check=True, timeout=30)
    assert json.loads(out.stdout)["sentences"][0]["boxes"] == [[300, 100, 450, 200]]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_line_for_a_folder_in_the_guide_works_as_typed(address: str, tmp_path: Path) -> None:
    (guide,) = re.findall(r"^printf .*", (ROOT / "docs" / "serving.md").read_text(), re.M)
    folder = tmp_path / "studies of today"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number} a.png").write_bytes(png(300 + number, 200))
    line = guide.replace("FOLDER/*", f"'{folder}'/*").replace("http://127.0.0.1:8000/", address)
    subprocess.run(line, shell=True, check=True, timeout=30, cwd=tmp_path)
    told = [json.loads(text) for text in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {each["index"]: each["report"]["image"]["width"] for each in told} == {0: 300, 1: 301, 2: 302}


def test_on_a_phone_nothing_lies_beside_the_screen(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    choose(page, "x.png", png(300, 200))
    page.wait_for_selector("#sentences li")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.click("#sentences .say >> nth=0")
    page.click("#redraw")
    assert page.evaluate("getComputedStyle(document.getElementById('boxes')).touchAction") == "none"
