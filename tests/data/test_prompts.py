from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxmed_ray.data import prompts
from boxmed_ray.data.prompts import Task, parse_answer
from boxmed_ray.data.study import Box, Finding


def answer(text: str, think: str = "why") -> str:
    return f"<think>{think}</think><answer>{text}</answer>"


def test_permille_is_read_into_pixels() -> None:
    read = parse_answer(answer("[100, 200, 500, 1000]"), 300, 50)
    assert read.boxes == ((30, 10, 150, 50),)
    assert read.well_formed
    assert read.think == "why"


def test_none_is_an_answer_and_not_malformed() -> None:
    read = parse_answer(answer("none"), 10, 10)
    assert read.boxes == ()
    assert read.well_formed
    assert not read.malformed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "[1, 2, 3, 4]",
        answer(""),
        answer("None."),
        answer("[1, 2, 3]"),
        answer("[1, 2, 3, 4, 5]"),
        answer("[1,2,3,4]"),
        answer("[1, 2, 3, 4] [1, 2, 3, 4]"),
        answer("[1, 2, 3, 4],"),
        answer("[-1, 2, 3, 4]"),
        answer("[5, 2, 3, 4]"),
        answer("[1, 2, 1, 4]"),
        answer("[1, 2, 3, 1100]"),
        answer("[1e3, 2, 3, 4]"),
        answer("[nan, 2, 3, 4]"),
        answer("none, [1, 2, 3, 4]"),
        answer("none") + "more",
        "so " + answer("none"),
        answer("none") + answer("none"),
        "<answer>none</answer><think>why</think>",
        "<think>why</think>",
        "<think>why<answer>none</answer>",
        answer("none", think="</think><think>"),
        answer("none", think="<answer>"),
        answer("[1, 2, 3, 4]" + ", [1, 2, 3, 4]" * 64),
        answer("none", think="x" * 30_000),
    ],
)
def test_anything_else_is_malformed(text: str) -> None:
    read = parse_answer(text, 100, 100)
    assert read.boxes is None
    assert read.malformed
    assert not read.well_formed


def test_space_around_parts_is_forgiven() -> None:
    assert parse_answer(f"\n{answer(' none ', ' why ')} \n", 10, 10).think == "why"
    assert parse_answer(answer(" [1, 2, 3, 4]\n"), 1000, 1000).boxes == ((1, 2, 3, 4),)


@given(st.text(max_size=200), st.sampled_from(["permille", "pixel", "unit"]))
def test_no_text_can_crash_the_parser(text: str, coordinates: prompts.Coordinates) -> None:
    parse_answer(text, 10, 20, coordinates)
    parse_answer(answer(text), 10, 20, coordinates)


@st.composite
def _framed(draw: st.DrawFn) -> tuple[int, int, list[Box]]:
    width, height = draw(st.integers(32, 4000)), draw(st.integers(32, 4000))
    # Wide enough that rounding cannot close a box.
    xs = st.tuples(st.floats(0, 0.4), st.floats(0.6, 1))
    boxes = draw(st.lists(st.tuples(xs, xs), min_size=1, max_size=5))
    return width, height, [Box(x[0] * width, y[0] * height, x[1] * width, y[1] * height) for x, y in boxes]


@given(_framed(), st.sampled_from(["permille", "pixel", "unit"]))
def test_reading_inverts_writing(framed: tuple[int, int, list[Box]], coordinates: prompts.Coordinates) -> None:
    width, height, boxes = framed
    read = parse_answer(answer(prompts.format_boxes(boxes, width, height, coordinates)), width, height, coordinates)
    assert read.boxes is not None
    step = max(width, height) / 1000 if coordinates != "pixel" else 1
    for got, wanted in zip(read.boxes, boxes, strict=True):
        assert got == pytest.approx(wanted, abs=0.5 * step + 1e-6)


def test_numbers_never_leave_the_image() -> None:
    assert prompts.format_boxes([Box(-0.5, 0, 100.4, 50)], 100, 50) == "[0, 0, 1000, 1000]"
    assert prompts.format_boxes([], 100, 50) == "none"


def test_a_phrase_belongs_to_grounding_alone() -> None:
    assert prompts.instruction(Task.GROUND, "Nodule.") == "Locate in this chest X-ray: Nodule."
    with pytest.raises(ValueError, match="needs phrase"):
        prompts.instruction(Task.GROUND)
    with pytest.raises(ValueError, match="takes no phrase"):
        prompts.instruction(Task.REPORT, "Nodule.")


def test_chains_name_finding_disease_and_region_in_order() -> None:
    effusion = Finding(phrase="Blunted left angle.", disease="Pleural Effusion", region="left lung")
    scar = Finding(phrase="Old scar")
    assert prompts.chain(effusion) == "Blunted left angle -> Pleural Effusion -> left lung"
    assert prompts.concepts_response([effusion, scar]) == (
        "<think>Blunted left angle -> Pleural Effusion -> left lung; Old scar</think><answer>Pleural Effusion</answer>"
    )
