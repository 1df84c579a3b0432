"""What no response should be paid for: every registered reward on the same hostile responses.

Values are those of docs/rewards.md. Rewards of published weights have tiny random ones here: a floor does not depend
on what a model has learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from boxmed_ray.actors.reward import RewardWorker
from boxmed_ray.actors.types import Group, Prompt, Rollout
from boxmed_ray.data.prompts import Task
from boxmed_ray.data.study import Box
from rewards.composite import Composite
from rewards.joint import STANDARDS
from rewards.metrics import METRICS, Loaded
from rewards.registry import REWARDS, build
from rewards.sample import BoxT, Sample
from rewards.scorers import ENVIRONMENT
from tests.rewards.encoders import CORPUS
from tests.rewards.test_scorers import tiny as tiny  # noqa: PLC0414 the fixture: folders of tiny scorers

TRUE: tuple[BoxT, ...] = ((10.0, 10.0, 50.0, 60.0),)
REPORT = CORPUS[0]
NAN, INF = math.nan, math.inf
NAMES = [*REWARDS, *METRICS]
LETTERS = "é" * 10_000


def floor(name: str) -> float:
    """Of a response that says nothing and has no box."""
    if name in METRICS:
        return METRICS[name].floor
    if name.startswith("joint_"):
        report = name.removeprefix("joint_")
        report = "clinical_lite" if report == "lite" else report
        return (STANDARDS[report].of(METRICS[report].floor) + STANDARDS["soft_f1"].of(0)) / 2
    return -1.0 if name == "length" else 0.0


@pytest.fixture(params=NAMES)
def scored(
    request: pytest.FixtureRequest, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[Sample], float]]:
    """A reward's name and itself."""
    monkeypatch.setenv(ENVIRONMENT, str(tiny))
    reward: Composite = build({request.param: 1.0}, loaded=Loaded({}))

    def score(sample: Sample) -> float:
        [found] = reward.score([sample])
        assert "scorer_error" not in found.flags
        assert math.isfinite(found.value)
        return found.value

    return request.param, score


def said(text: str, boxes: tuple[BoxT, ...] | None = None) -> Sample:
    return Sample(text, boxes, False, TRUE, target_text=REPORT)


@pytest.mark.parametrize("text", ["", "   ", "<think>The heart is big.", "<think></think>", "<think>x</think><answer>"])
def test_nothing_said_is_the_floor(scored: tuple[str, Callable[[Sample], float]], text: str) -> None:
    name, score = scored
    assert score(said(text)) == pytest.approx(floor(name))


@pytest.mark.parametrize("text", ["...", "?!,;:-" * 2000, "\u3002\u3001\u2026"])
def test_punctuation_is_the_floor(scored: tuple[str, Callable[[Sample], float]], text: str) -> None:
    name, score = scored
    low, high = (-1.0, 0.0) if name == "length" else (floor(name), floor(name))
    assert low - 1e-6 <= score(said(text)) <= high + 1e-6  # length counts characters, whatever they are


@pytest.mark.parametrize(
    "text",
    [
        LETTERS,
        "a " * 5000,
        "effusion " * 1111,
        "胸水なし。心拡大なし。",
        "Нет выпота.",
        "لا انصباب",
        "Effusion \ud83d \udc00",
    ],
)
def test_long_texts_and_other_alphabets_are_not_below_the_floor(
    scored: tuple[str, Callable[[Sample], float]], text: str
) -> None:
    name, score = scored
    assert score(said(text)) >= floor(name) - 1e-6
    if name == "length" and len(text) > 9000:
        assert score(said(text)) == -1


@pytest.mark.parametrize("name", ["bleu_2", "entity_f1", "entity_precision"])
@pytest.mark.parametrize("text", [LETTERS, "胸水なし。心拡大なし。", "Нет выпота"])
def test_what_shares_no_word_is_worth_nothing(name: str, text: str) -> None:
    assert build({name: 1.0}).score([said(text)])[0].value == 0


@pytest.mark.parametrize(
    "boxes",
    [
        None,
        (),
        ((NAN, 10.0, 50.0, 60.0),),
        ((NAN, NAN, NAN, NAN),),
        ((-INF, -INF, INF, INF),),
        ((1000.0, 1000.0, 2000.0, 2000.0),),  # beside the image
        ((-50.0, -60.0, -10.0, -10.0),),
        ((50.0, 60.0, 10.0, 10.0),),  # inverted
        ((10.0, 10.0, 10.0, 60.0),),  # empty
        TRUE * 500,
        tuple((float(i), 0.0, i + 1.0, 1.0) for i in range(500)),
    ],
)
def test_boxes_that_are_none_are_worth_nothing(
    scored: tuple[str, Callable[[Sample], float]], boxes: tuple[BoxT, ...] | None
) -> None:
    name, score = scored
    assert score(said("", boxes)) == pytest.approx(floor(name))


ANSWERS = {
    "no end of thinking": "<think>x<answer>[100, 100, 500, 600]</answer>",
    "no box": "<think>x</think><answer></answer>",
    "NaN": "<think>x</think><answer>[nan, 100, 500, 600]</answer>",
    "outside": "<think>x</think><answer>[100, 100, 5000, 6000]</answer>",
    "500 boxes": "<think>x</think><answer>" + ", ".join(["[100, 100, 500, 600]"] * 500) + "</answer>",
    "10,000 characters": LETTERS,
    "empty": "",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("task", [Task.GROUND, Task.JOINT])
def test_what_a_model_writes_is_read_and_gets_the_floor_of_boxes(task: Task, answer: str) -> None:
    prompt = Prompt("p", task, None, "s", "s.png", 100, 100, (Box(*TRUE[0]),), REPORT)
    group = Group(prompt, (Rollout([], [], "stop", 0, answer),))  # type: ignore[arg-type]
    rewards = {"iou": 1.0, "soft_f1": 1.0, "format": 1.0}
    [scored] = RewardWorker({task: rewards}, "permille", 112).score([group])
    assert scored.rewards.tolist() == [0]
    assert scored.malformed.tolist() == [True]


@pytest.mark.parametrize("answer", ["", "...", "<think>No pleural effusion.", ANSWERS["10,000 characters"]])
def test_a_report_that_says_nothing_gets_the_floor(answer: str) -> None:
    prompt = Prompt("p", Task.REPORT, None, "s", "s.png", 100, 100, target_text=REPORT)
    group = Group(prompt, (Rollout([], [], "stop", 0, answer),))  # type: ignore[arg-type]
    [scored] = RewardWorker({Task.REPORT: {"entity_f1": 1.0, "bleu_2": 1.0}}, "permille", 112).score([group])
    assert scored.rewards.tolist() == [0]
