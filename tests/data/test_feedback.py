"""From verdicts as the service keeps them to studies that training reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from boxmed_ray.commands.data import from_feedback
from boxmed_ray.data.feedback import read_feedback
from boxmed_ray.data.readers.manifest import read_manifest
from boxmed_ray.data.study import Box, DataError
from serve.feedback import Feedback, FeedbackFile, pixels_digest
from serve.schemas import ModelInfo

REPORT = "f25ea5a5-8e08-4e14-950c-5627d2c7e9c1"
MODEL = ModelInfo(name="n", backbone_version="b", adapter="a", adapter_version="v", weight_version=3)
SEEN = Image.new("RGB", (56, 56), "grey")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Verdicts on four sentences about one image of 560 x 280 pixels, and one about an image that was not kept."""
    file = FeedbackFile(tmp_path / "feedback", images=True)
    digest = pixels_digest(SEEN)
    file.keep(SEEN, digest)
    size: dict[str, Any] = {"width": 560, "height": 280, "image": digest, "report": REPORT}
    for said in (
        {**size, "sentence": 0, "text": "A nodule.", "verdict": "wrong"},
        {**size, "sentence": 0, "text": "A nodule.", "verdict": "wrong", "corrected": "The heart is enlarged.",
         "boxes": [(100, 50, 300, 150)]},
        {**size, "sentence": 1, "text": "No effusion.", "verdict": "right", "boxes": []},
        {**size, "sentence": 2, "text": "A tube.", "verdict": "unsure"},
        {**size, "sentence": 3, "text": "A shadow.", "verdict": "wrong"},
        {**size, "sentence": 4, "text": "A line.", "verdict": "right", "image": "0" * 16},
    ):  # fmt: skip
        file.append(Feedback.model_validate(said), MODEL, "key")
    return tmp_path / "feedback"


def test_verdicts_become_one_study_an_image_in_pixels_of_the_kept_image(kept: Path) -> None:
    result = read_feedback(kept)
    (study,) = result.studies
    assert (study.width, study.height, study.source, study.split) == (56, 56, "feedback", "train")
    assert study.report == "The heart is enlarged. No effusion."
    heart, effusion = study.findings
    assert heart.boxes == (Box(10, 10, 30, 30),)  # 560 x 280 became 56 x 56
    assert heart.disease == "Cardiomegaly"
    assert (effusion.boxes, effusion.disease) == ((), "No Finding")
    assert dict(result.left_out) == {
        "not to be told": 1,
        "wrong, and not corrected": 1,
        "its image was not kept (--feedback-images)": 1,
    }


def test_a_manifest_of_them_is_read_by_training(kept: Path, tmp_path: Path) -> None:
    from_feedback(kept, tmp_path / "studies")
    (item,) = read_manifest(tmp_path / "studies" / "manifest.jsonl")
    assert item.study == read_feedback(kept).studies[0]  # type: ignore[union-attr]


def test_a_broken_line_is_named(kept: Path) -> None:
    with (kept / "feedback.jsonl").open("a") as file:
        file.write(json.dumps({"verdict": "right"}) + "\n")
    with pytest.raises(DataError, match=r"feedback.jsonl:7: lacks report, sentence, text"):
        read_feedback(kept)


def test_a_folder_without_feedback_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_feedback(tmp_path)


@pytest.mark.parametrize("image", ["../../secret", "/etc/x", "..", "0" * 15])
def test_a_digest_that_is_a_path_reaches_no_file(kept: Path, image: str) -> None:
    secret = kept.parent / "secret.png"
    SEEN.save(secret)
    line = {"report": REPORT, "sentence": 9, "text": "A line.", "verdict": "right", "image": image}
    with (kept / "feedback.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    result = read_feedback(kept)
    assert len(result.studies) == 1
    assert result.left_out["its image was not kept (--feedback-images)"] == 2


def test_a_kept_image_that_is_damaged_is_named(kept: Path) -> None:
    path = next((kept / "images").glob("*.png"))
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=rf"{path.name}: is not a readable PNG"):
        read_feedback(kept)
