"""What SVR asks: shares of tasks, prompts that stay when more are asked for, and joint prompts."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxmed_ray.config import DataConfig, MCLConfig, SVRConfig
from boxmed_ray.data import examples, prompts
from boxmed_ray.data.mixture import svr_prompts
from boxmed_ray.data.prompts import Task, parse_answer, parse_joint
from boxmed_ray.data.study import Box, DataError
from rewards.text.pair import spoken
from tests.data.test_examples import DENIED, DIFFUSE, NODULE, STUDIES, study

BOXES = "[500, 500, 750, 1000]"
"""Of NODULE, in permille."""


def asked(count: int, **tasks: float) -> list[examples.Example]:
    svr: Any = {"tasks": tasks}
    return svr_prompts(STUDIES, count, svr=SVRConfig(**svr), data=DataConfig(), seed=3)


def test_grounding_alone_asks_what_it_always_asked() -> None:
    assert asked(30, grounding=1) == examples.ground_prompts(STUDIES, 30, none_share=0.05, seed=3, side=112)


def test_tasks_come_in_their_shares() -> None:
    counts = Counter(example.task for example in asked(2000, grounding=2, report=1, joint=1))
    assert counts[Task.GROUND] == pytest.approx(1000, rel=0.1)
    assert counts[Task.REPORT] == pytest.approx(500, rel=0.15)
    assert counts[Task.JOINT] == pytest.approx(500, rel=0.15)


def test_a_prompt_does_not_depend_on_how_many_are_asked_for() -> None:
    assert asked(40, report=1, joint=2, grounding=1) == asked(90, report=1, joint=2, grounding=1)[:40]


def test_a_task_that_no_study_can_ask_is_refused() -> None:
    bare = [study("bare", NODULE)]
    for task in ("report", "joint"):
        with pytest.raises(DataError, match="none of the studies has a report"):
            svr_prompts(bare, 1, svr=SVRConfig(tasks={task: 1.0}), data=DataConfig(), seed=0)  # type: ignore[dict-item]


def test_a_joint_response_has_boxes_behind_their_words() -> None:
    example = examples.joint_example(STUDIES[0])
    assert example.response == f"<think>Lung Lesion -> left lung</think><answer>Nodule. {BOXES} No effusion.</answer>"
    assert example.boxes == NODULE.boxes
    assert example.prompt == "Write the findings of this chest X-ray with their boxes."


def test_a_phrase_that_the_report_does_not_have_comes_after_it() -> None:
    example = examples.joint_example(study("s", NODULE, report="Small opacity on the left."))
    assert example.response.endswith(f"<answer>Small opacity on the left. Nodule. {BOXES}</answer>")


def test_without_findings_on_record_nobody_knows_what_boxes_are_missing() -> None:
    silent, clear = study("silent", report="Clear."), study("clear", DENIED, report="No effusion.")
    assert examples.joint_studies([silent, clear, study("mute", NODULE)]) == [clear]
    assert examples.joint_example(clear).response == "<think>none</think><answer>No effusion.</answer>"


@pytest.mark.parametrize("coordinates", ["permille", "unit", "pixel"])
def test_what_is_written_is_read_back(coordinates: prompts.Coordinates) -> None:
    one = STUDIES[0]
    example = examples.joint_example(one, coordinates, 200)
    read = parse_joint(example.response, one.width, one.height, coordinates, 200)
    assert read.well_formed
    assert read.boxes is not None
    assert read.boxes[0] == pytest.approx(NODULE.boxes[0], abs=0.3)
    assert prompts.without_boxes("Nodule. [1, 2, 3, 4], [5, 6, 7, 8] No effusion.") == "Nodule. No effusion."
    assert prompts.without_boxes("Nodule \n [1, 2, 3, 4],\n[5, 6, 7, 8]") == "Nodule"


@pytest.mark.parametrize(
    ("report", "boxes"),
    [
        ("Clear lungs.", ()),
        ("A [0, 0, 500, 500] and B [500, 500, 1000, 1000].", (Box(0, 0, 50, 50), Box(50, 50, 100, 100))),
        ("A [0, 0, 500, 500], [500, 500, 1000, 1000].", (Box(0, 0, 50, 50), Box(50, 50, 100, 100))),
        ("[0, 0, 500, 500]", None),  # boxes of nothing
        ("A [0, 0, 500]", None),
        ("A [500, 0, 0, 500]", None),
        ("A [here]", None),
        ("A [0, 0, 500, 500", None),
        ("A 0, 0, 500, 500]", None),
        ("A [nan, 0, 500, 500]", None),
        ("A [0, 0, 5000, 500]", None),
        ("A " + "[0, 0, 500, 500] " * 500, None),
        ("", None),
    ],
)
def test_a_joint_answer_is_read_or_malformed(report: str, boxes: tuple[Box, ...] | None) -> None:
    read = parse_joint(f"<think>x</think><answer>{report}</answer>", 100, 100)
    assert read.boxes == boxes
    assert read.well_formed == (boxes is not None)


def test_a_joint_response_that_never_ends_its_thinking_is_malformed() -> None:
    assert parse_joint("<think>x<answer>A [0, 0, 500, 500]</answer>", 100, 100).malformed


@given(st.text(max_size=400))
def test_any_text_is_read(text: str) -> None:
    parse_joint(text, 10, 20)
    parse_joint(f"<think></think><answer>{text}</answer>", 10, 20)
    assert len(prompts.without_boxes(text)) <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        " " * 20_000,
        "[" * 20_000,
        "\n" * 10_000 + "[" + "\n" * 9_999,
        "<think>" + "</think><answer></answer>" * 830 + "x",
        "<think></think><answer>" + "[1, 1, 2, 2], " * 1400,
    ],
)
def test_time_is_bounded_for_what_a_model_may_repeat(text: str) -> None:
    began = time.process_time()
    for read in (parse_joint, parse_answer):
        assert read(text, 10, 20).malformed
    prompts.without_boxes(spoken(text))
    assert time.process_time() - began < 0.5


def test_mcl_shows_reports_and_joint_reports_in_their_shares() -> None:
    config = MCLConfig(report_share=0.3, joint_share=0.2, grounding_share=0.5)
    made = examples.mcl_examples(STUDIES, 2000, config=config, seed=1)
    counts = Counter(example.task for example in made)
    for task, share in ((Task.REPORT, 0.3), (Task.JOINT, 0.2), (Task.GROUND, 0.25), (Task.CONCEPTS, 0.25)):
        assert counts[task] == pytest.approx(2000 * share, rel=0.15)
    plain = examples.mcl_examples(STUDIES, 50, config=MCLConfig(grounding_share=0.5), seed=1)
    assert [e for e in made if e.task in (Task.GROUND, Task.CONCEPTS)][:20] == plain[:20]
    with pytest.raises(DataError, match=r"report; set mcl\.report_share=0"):
        examples.mcl_examples([study("s", NODULE, DIFFUSE)], 1, config=config, seed=0)


def test_a_tokenizer_sees_joint_texts_where_they_are_asked() -> None:
    plain, joint = set(examples.corpus(STUDIES)), set(examples.corpus(STUDIES, joint=True))
    assert plain < joint
    assert joint - plain == {examples.joint_example(STUDIES[0]).prompt, examples.joint_example(STUDIES[0]).response}
