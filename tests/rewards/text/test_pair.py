"""What of a response is a report, and a metric as a reward: floors, sign, and what is finite."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rewards.sample import Sample
from rewards.text.bleu import Bleu2
from rewards.text.pair import MAX_CHARACTERS, PairReward, has_words, spoken


@pytest.mark.parametrize(
    ("response", "report"),
    [
        ("No effusion.", "No effusion."),
        ("<think>Is there fluid? No.</think>\nNo effusion.", "No effusion."),
        ("<think>…</think><answer>No effusion.</answer>", "No effusion."),
        ("The prompt opened it.</think> No effusion.", "No effusion."),
        ("<think>a</think> no <think>b</think> No effusion.", "No effusion."),
        (" <think>No effusion.", ""),
        ("<think>No effusion.<answer>No effusion.</answer>", ""),
        ("<think></think>", ""),
        ("Sure! <think>No effusion.", "Sure!"),
        ("<answer><think>No effusion.", ""),
        ("<think>a</think>No effusion. <think>b", "No effusion."),
        ("", ""),
    ],
)
def test_the_report_is_what_follows_the_thinking(response: str, report: str):
    assert spoken(response) == report


def test_words_are_letters_and_digits_of_any_alphabet():
    assert all(map(has_words, ["2", "胸水なし", "é"]))
    assert not any(map(has_words, ["", " \n", "... -- __ ?!"]))
    assert not has_words("." * MAX_CHARACTERS + "a")


class Length:
    """A metric that can be counted by hand: how long the hypothesis is."""

    name = "length"

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        assert all([*references, *hypotheses])
        return [float(len(hypothesis)) for hypothesis in hypotheses]


def sample(text: str, target: str | None = "Normal.") -> Sample:
    return Sample(text, (), True, (), target_text=target)


def test_a_response_without_words_or_a_sample_without_reference_gets_the_floor():
    reward = PairReward("length", Length(), floor=-2)
    batch = [sample("abc"), sample(""), sample("..."), sample("<think>abc"), sample("abc", None), sample("abc", " . ")]
    assert [score.value for score in reward.score(batch)] == [3, -2, -2, -2, -2, -2]
    assert [score.components for score in reward.score(batch[:2])] == [{"length": 3}, {"length": -2}]
    assert reward.score([]) == []


def test_where_less_is_better_the_reward_is_the_negative_and_no_words_are_worst():
    reward = PairReward("length", Length(), floor=-5, sign=-1)
    assert [score.value for score in reward.score([sample("abc"), sample("abcdefgh"), sample("")])] == [-3, -5, -5]


def test_thinking_is_not_scored():
    reward = PairReward("bleu_2", Bleu2(), floor=0)
    plain, thinking = reward.score([sample("Normal."), sample("<think>Effusion? No, none.</think>Normal.")])
    assert plain.value == thinking.value == pytest.approx(1)
