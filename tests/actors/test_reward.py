"""The reward worker: from rollouts to rewards, by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from boxmed_ray.actors.reward import RewardWorker
from boxmed_ray.actors.types import Group, Prompt, Rollout
from boxmed_ray.data.prompts import Task
from boxmed_ray.data.study import Box
from rewards.sample import Sample
from rewards.text.entities import EntityF1


def rollout(text: str, finish_reason: str = "stop") -> Rollout:
    return Rollout(np.arange(3), np.zeros(3, dtype=np.float32), finish_reason, 0, text)


def prompt(targets: tuple[Box, ...] = (Box(0, 0, 100, 50),)) -> Prompt:
    return Prompt("p", Task.GROUND, "There is a nodule.", "s", "s.png", 200, 100, targets)


def test_iou_and_format_are_summed_for_each_rollout_of_a_group() -> None:
    group = Group(
        prompt(),
        (
            rollout("<think>a</think><answer>[0, 0, 500, 500]</answer>"),  # the target itself, in permille
            rollout("<think>a</think><answer>[0, 0, 250, 500]</answer>"),  # its left half
            rollout("[0, 0, 500, 500]"),
            rollout("<think>a</think><answer>[0, 0, 500, 500]</answer>", "length"),
        ),
    )
    (scored,) = RewardWorker({Task.GROUND: {"iou": 1.0, "format": 1.0}}, "permille", 112).score([group])
    assert scored.rewards == pytest.approx([2.0, 1.5, 0.0, 1.0])
    assert scored.components["iou"] == pytest.approx([1.0, 0.5, 0.0, 1.0])
    assert scored.components["format"] == pytest.approx([1.0, 1.0, 0.0, 0.0])
    assert scored.malformed.tolist() == [False, False, True, False]


def test_pixel_answers_count_the_square_that_the_model_sees() -> None:
    group = Group(prompt(), (rollout("<think>a</think><answer>[0, 0, 56, 56]</answer>"),))
    (scored,) = RewardWorker({Task.GROUND: {"iou": 1.0}}, "pixel", 112).score([group])
    assert scored.rewards == pytest.approx([1.0])


def test_a_group_gets_the_same_rewards_alone_and_among_others() -> None:
    groups = [
        Group(prompt(), (rollout(f"<think>a</think><answer>[0, 0, {x}, 500]</answer>"),)) for x in (100, 300, 900)
    ]
    worker = RewardWorker({Task.GROUND: {"iou": 1.0, "format": 0.5}}, "permille", 112)
    together = [scored.rewards.tolist() for scored in worker.score(groups)]
    assert together == [worker.score([group])[0].rewards.tolist() for group in groups]


def test_an_explicit_none_is_right_where_nothing_is_to_be_found() -> None:
    group = Group(prompt(targets=()), (rollout("<think>none</think><answer>none</answer>"),))
    (scored,) = RewardWorker({Task.GROUND: {"iou": 1.0, "format": 1.0}}, "permille", 112).score([group])
    assert scored.rewards == pytest.approx([2.0])


def test_an_unknown_reward_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="iouu"):
        RewardWorker({Task.GROUND: {"iouu": 1.0}}, "permille", 112)


def test_each_task_has_rewards_of_its_own_whatever_their_order() -> None:
    report = Prompt("r", Task.REPORT, None, "s", "s.png", 10, 10, target_text="No effusion.")
    joint = Prompt("j", Task.JOINT, None, "s", "s.png", 200, 100, (Box(0, 0, 100, 50),), target_text="No effusion.")
    groups = [
        Group(report, (rollout("No effusion."), rollout("<think>No effusion."))),
        Group(prompt(), (rollout("<think>a</think><answer>[0, 0, 250, 500]</answer>"),)),
        Group(joint, (
            rollout("<think>a</think><answer>No effusion. [0, 0, 500, 500]</answer>"),
            rollout("<think>a</think><answer>No effusion. [0, 0, 500]</answer>"),
        )),
        Group(report, (rollout("Effusion."),)),
    ]  # fmt: skip
    routes = {
        Task.GROUND: {"iou": 1.0},
        Task.REPORT: {"entity_f1": 2.0},
        Task.JOINT: {"entity_f1": 1.0, "soft_f1": 1.0, "length": 1.0},
    }
    scored = RewardWorker(routes, "permille", 112).score(groups)
    assert [one.group for one in scored] == groups
    assert [one.rewards.tolist() for one in scored] == [[2, 0], [0.5], [2, 1], [0]]
    assert [sorted(one.components) for one in scored[:3]] == [
        ["entity_f1"],
        ["iou"],
        ["entity_f1", "length", "soft_f1"],
    ]
    assert scored[2].malformed.tolist() == [False, True]
    assert scored[2].components["length"].tolist() == [0, 0]  # of the report, boxes and thinking do not count


def fails_on_edema(batch: Sequence[Sample]) -> list[float]:
    """A user's reward below 0 that cannot take every text."""
    if any("Edema" in sample.text for sample in batch):
        raise KeyError("Edema")
    return [-float(len(sample.text)) for sample in batch]


def test_a_response_that_makes_a_scorer_fail_gains_nothing_by_it() -> None:
    report = Prompt("r", Task.REPORT, None, "s", "s.png", 10, 10, target_text="No effusion.")
    worker = RewardWorker({Task.REPORT: {f"{__name__}:fails_on_edema": 1.0, "entity_f1": 1.0}}, "permille", 112)
    some, every = worker.score(
        [Group(report, (rollout("Effusion"), rollout("Edema."), rollout("abc")), 0), Group(report, (rollout("Edema"),))]
    )
    assert some.rewards.tolist() == [-8, -8, -3]
    assert some.unscored.tolist() == [False, True, False]
    assert (every.rewards.tolist(), every.unscored.tolist()) == ([0], [True])


def test_responses_are_measured_by_what_does_not_reward_them() -> None:
    report = Prompt("r", Task.REPORT, None, "s", "s.png", 10, 10, target_text="No effusion.")
    group = Group(report, (rollout("No effusion."), rollout("Edema.")))
    worker = RewardWorker({Task.REPORT: {"bleu_2": 1.0}}, "permille", 112, watched={Task.REPORT: ["entity_f1"]})
    measured = worker.measure([group])
    assert measured["held_out.entity_f1"] == (0.5, 0.5)
    assert measured["characters"] == (9.0, 3.0)
    assert measured["distinct"] == (1.0, 0.0)
    assert worker.score([group])[0].components.keys() == {"bleu_2"}
    alone = RewardWorker({Task.REPORT: {"bleu_2": 1.0}}, "permille", 112).measure([group])
    assert set(alone) == {"characters", "distinct", "copied", "boxes"}


def test_rewards_of_one_model_share_its_scores_within_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    score_pairs = EntityF1.score_pairs

    def counting(self: EntityF1, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        asked.append(len(hypotheses))
        return score_pairs(self, references, hypotheses)

    monkeypatch.setattr(EntityF1, "score_pairs", counting)
    report = Prompt("r", Task.REPORT, None, "s", "s.png", 10, 10, target_text="No effusion.")
    joint = Prompt("j", Task.JOINT, None, "s", "s.png", 10, 10, target_text="No effusion.")
    groups = [
        Group(report, (rollout("No effusion."), rollout("Edema."), rollout("Edema."))),
        Group(joint, (rollout("<think>a</think><answer>Edema.</answer>"),)),
    ]
    weights = {"entity_f1": 1.0}
    worker = RewardWorker(
        {Task.REPORT: weights, Task.JOINT: weights}, "permille", 112, watched={Task.JOINT: ["entity_f1"]}
    )
    first = worker.score(groups)
    worker.measure(groups[1:])
    assert sum(asked) == 2  # of five
    asked.clear()
    assert [one.rewards.tolist() for one in worker.score(groups)] == [one.rewards.tolist() for one in first]
    assert sum(asked) == 2  # every call begins afresh
