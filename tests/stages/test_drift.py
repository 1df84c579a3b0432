"""The rules that ring, on numbers by hand."""

from __future__ import annotations

import json

import pytest

from boxmed_ray.config import WatchConfig
from boxmed_ray.stages.drift import Drift

SETTINGS = WatchConfig(window=2, drift=0.5, length_band=(0.6, 1.5))


def measured(
    reward: float = 0.5, other: float = 0.5, third: float = 0.5, characters: float = 100
) -> dict[str, tuple[float, float]]:
    return {
        "reward": (reward, 0.2), "characters": (characters, 10.0),
        "held_out.bleu_2": (other, 0.1), "held_out.clinical_lite": (third, 0.1), "held_out.format": (1.0, 0.0),
    }  # fmt: skip


def rung(drift: Drift, *measurements: dict[str, tuple[float, float]]) -> list[list[str]]:
    return [[alarm.rule for alarm in drift.add(one)] for one in measurements]


def test_nothing_rings_while_nothing_changes() -> None:
    assert rung(Drift(SETTINGS), *[measured()] * 6) == [[]] * 6


def test_the_score_rule_rings_once_where_the_reward_rises_and_the_others_fall() -> None:
    bad = measured(reward=0.61, other=0.40, third=0.48)  # +0.55 deviations; −1 and −0.2, −0.6 on average
    assert rung(Drift(SETTINGS), measured(), bad, bad, bad) == [[], [], ["score"], []]


@pytest.mark.parametrize(
    "fine",
    [
        measured(reward=0.59, other=0.3, third=0.3),  # the reward has not risen by enough
        measured(reward=0.9, other=0.40, third=0.52),  # one falls, the mean of both does not by enough
        measured(reward=0.9, other=-9, third=0.52),  # nor does a single one decide
        measured(reward=0.9, other=0.9, third=0.9),
        measured(reward=0.1, other=0.1, third=0.1),  # worse all over is no cheating
    ],
)
def test_the_score_rule_needs_both(fine: dict[str, tuple[float, float]]) -> None:
    assert rung(Drift(SETTINGS), measured(), *[fine] * 4) == [[]] * 5


@pytest.mark.parametrize("characters", [59, 151])
def test_the_length_rule_rings_outside_its_band(characters: float) -> None:
    odd = measured(characters=characters)
    assert rung(Drift(SETTINGS), measured(), odd, odd, odd) == [[], [], ["length"], []]


def test_a_single_odd_measurement_does_not_ring_and_a_rule_rings_again_after_a_rest() -> None:
    odd, fine = measured(characters=50), measured()
    drift = Drift(SETTINGS)
    assert rung(drift, fine, odd, measured(characters=80), odd, odd) == [[], [], [], [], ["length"]]
    assert rung(drift, fine, fine, odd, odd) == [[], [], [], ["length"]]


def test_the_message_names_the_numbers() -> None:
    drift = Drift(SETTINGS)
    bad = measured(reward=0.75, other=0.25, third=0.5, characters=40)
    score, length = [drift.add(one) for one in (measured(), bad, bad)][-1]
    assert score.message == (
        "reward 0.5 → 0.75, while what is not rewarded falls: bleu_2 0.5 → 0.25, clinical_lite 0.5 → 0.5"
    )
    assert length.message == "characters 100 → 40, 0.40 of the starting model (0.6 to 1.5 allowed)"


def test_a_resumed_watch_rings_where_one_that_was_not_stopped_rings() -> None:
    bad = measured(characters=40)
    drift = Drift(SETTINGS)
    assert rung(drift, measured(), bad) == [[], []]
    gone_on = Drift(SETTINGS, **json.loads(json.dumps(drift.state)))
    assert rung(gone_on, bad, bad) == [["length"], []]
