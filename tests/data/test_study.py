from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from boxmed_ray.data.knowledge import DISEASES, REGIONS
from boxmed_ray.data.study import Box, DataError, Finding, Study, check_patient_splits


def study(*boxes: Box, **values: object) -> Study:
    defaults: dict[str, object] = {
        "id": "s",
        "patient_id": "p",
        "image": Path("s.png"),
        "width": 100,
        "height": 50,
        "findings": (Finding(phrase="Mass.", boxes=boxes),),
        "source": "made-up",
    }
    return Study.model_validate(defaults | values)


def test_the_banks_have_the_sizes_of_the_paper() -> None:
    assert len(set(DISEASES)) == 14
    assert len(set(REGIONS)) == 12


@pytest.mark.parametrize("box", [Box(0, 0, 100, 50), Box(-0.4, 0, 100.4, 50.4), Box(1.5, 2.5, 2, 3)])
def test_a_box_inside_its_image_is_taken_up_to_rounding(box: Box) -> None:
    assert study(box).findings[0].boxes == (box,)


@pytest.mark.parametrize("box", [Box(-1, 0, 5, 5), Box(0, -1, 5, 5), Box(0, 0, 101, 5), Box(0, 0, 5, 51)])
def test_a_box_that_leaves_its_image_is_refused_on_every_side(box: Box) -> None:
    with pytest.raises(ValidationError, match="leaves the 100x50 image"):
        study(box)


@pytest.mark.parametrize("box", [Box(5, 0, 5, 5), Box(6, 0, 5, 5), Box(0, 5, 5, 5), Box(0, 6, 5, 5)])
def test_an_inverted_or_empty_box_is_refused(box: Box) -> None:
    with pytest.raises(ValidationError, match="inverted or empty"):
        study(box)


def test_a_coordinate_must_be_finite() -> None:
    with pytest.raises(ValidationError, match="finite"):
        study(Box(0, 0, float("inf"), 5))


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="reprot"):
        study(reprot="x")


def test_a_patient_of_one_data_set_has_one_split() -> None:
    check_patient_splits([study(), study(id="t"), study(id="u", source="other", split="test")])
    with pytest.raises(DataError, match=r"'t'.*\(train and test\); split by patient"):
        check_patient_splits([study(), study(id="t", split="test")])


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "a\nb", "a\x1b[31m", "a\tb"])
@pytest.mark.parametrize("key", ["id", "patient_id"])
def test_a_name_that_a_spreadsheet_or_a_terminal_would_run_is_refused(key: str, name: str) -> None:
    with pytest.raises(ValidationError, match="must not begin with =, "):
        study(**{key: name})
