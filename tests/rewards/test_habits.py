"""Habits by hand."""

from __future__ import annotations

from rewards.habits import HABITS, habits, mean_and_spread
from rewards.sample import Sample

BOX = (0.0, 0.0, 1.0, 1.0)


def report(text: str, boxes: int = 0) -> Sample:
    return Sample(text, (BOX,) * boxes, True, (), target_text="No effusion.")


def test_habits_by_hand() -> None:
    samples = [
        report("<think>long thoughts</think>Clear.", 2),
        report("clear."),
        report("No  edema.", 1),
        report("No edema."),
        report("", 0),
    ]
    counted = habits(samples, ["a", "b", "c", "c", "d"])
    assert set(counted) == set(HABITS)
    assert counted["characters"] == [6, 6, 10, 9, 0]
    assert counted["distinct"] == [1, 0, 1, 0, 1]
    assert counted["copied"] == [1, 1, 0, 0, 0]  # "clear." of two studies; both of "no edema." are of one
    assert counted["boxes"] == [2, 0, 1, 0, 0]


def test_without_a_reference_report_the_whole_response_counts() -> None:
    response = "<think>a</think><answer>none</answer>"
    assert habits([Sample(response, (), True, ())], ["a"])["characters"] == [len(response)]


def test_mean_and_spread_by_hand() -> None:
    assert mean_and_spread([1.0, 3.0]) == (2.0, 1.0)
    assert mean_and_spread([5.0]) == (5.0, 0.0)
