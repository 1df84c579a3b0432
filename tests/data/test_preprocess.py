from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from boxmed_ray.data.preprocess import shrink_study, smaller_boxes, smaller_size
from boxmed_ray.data.study import Box, DataError, Finding
from tests.data.conftest import make_study, write_image


def test_a_quarter_of_height_and_width_is_the_papers() -> None:
    assert smaller_size(2544, 3056) == (636, 764)
    assert smaller_boxes((Box(100, 200, 300, 400),), (2544, 3056), (636, 764)) == ((25, 50, 75, 100),)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1_000_000))
def test_a_budget_is_kept_and_never_enlarges(width: int, height: int, budget: int) -> None:
    new = smaller_size(width, height, max_pixels=budget)
    assert new[0] <= width
    assert new[1] <= height
    assert new[0] * new[1] <= budget or 1 in new
    if width * height <= budget:
        assert new == (width, height)


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"scale": 1.5}, {"max_pixels": 0}])
def test_a_size_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        smaller_size(10, 10, **wrong)  # type: ignore[arg-type]


def test_boxes_follow_the_pixels_they_are_drawn_around(tmp_path: Path) -> None:
    """A white square in a black image, its sides no multiple of four: the box must stay around it."""
    pixels = np.zeros((203, 302), dtype=np.uint8)
    pixels[40:120, 60:200] = 255
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    finding = Finding(phrase="Square.", boxes=(Box(60, 40, 200, 120),), readings=((Box(60, 40, 200, 120),), ()))
    study = make_study(tmp_path, image=path, width=302, height=203, findings=(finding,))
    smaller = shrink_study(study, tmp_path / "small")
    assert (smaller.width, smaller.height) == (76, 51)
    with Image.open(smaller.image) as image:
        assert image.size == (76, 51)
        rows, columns = np.nonzero(np.asarray(image) > 127)
    (box,) = smaller.findings[0].boxes
    assert smaller.findings[0].readings == ((box,), ())
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert np.abs(np.subtract(found, box)).max() <= 1
    assert smaller.image != study.image


def test_a_copy_holds_pixels_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Secret^Name"
    path = tmp_path / "a.jpg"
    Image.new("L", (40, 40), 90).save(path, exif=exif, comment=b"Secret^Name")
    study = make_study(tmp_path, image=path, width=40, height=40, findings=())
    smaller = shrink_study(study, tmp_path / "small")
    assert b"Secret" not in smaller.image.read_bytes()


def test_an_id_that_is_no_file_name_stays_in_the_folder(tmp_path: Path) -> None:
    study = make_study(tmp_path, "plain").model_copy(update={"id": "../../up/x"})
    smaller = shrink_study(study, tmp_path / "small")
    assert smaller.image.parent == tmp_path / "small"
    assert smaller.id == "../../up/x"


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    study = make_study(tmp_path, image=write_image(tmp_path / "a.png", 20, 20))
    with pytest.raises(DataError, match="is 20x20, but its study says 64x64"):
        shrink_study(study, tmp_path / "small")
