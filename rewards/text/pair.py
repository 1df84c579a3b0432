"""What every metric over a pair of reports looks like, and its use as a reward.

What lives here: the protocol, the part of a response that is a report, and the reward. What does not: any metric.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from rewards.sample import Sample, Score, flags_of

MAX_CHARACTERS = 20_000
"""Text beyond this is not read: a report has some hundred words."""

_OPEN_THINK, _CLOSE_THINK = "<think>", "</think>"
_ANSWER_TAG = re.compile(r"</?answer>")
_WORD = re.compile(r"[^\W_]")


class PairMetric(Protocol):
    """Scores hypotheses against their references; the score of a pair never depends on the other pairs."""

    @property
    def name(self) -> str:
        """Says all that changes the number: model, variant, corpus of weights."""
        ...

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One finite number a pair, in order.

        Raises:
            ValueError: not as many hypotheses as references.
        """
        ...


def check_pairs(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    """Raises ValueError unless there are as many hypotheses as references."""
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses; they must pair")


def readable(text: str) -> str:
    """The part of a text that is read, as tokenizers can take it: half of a surrogate pair is a ``?``."""
    return text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def has_words(text: str) -> bool:
    """Whether there is a letter or a digit of any alphabet in the part that is read."""
    return _WORD.search(text[:MAX_CHARACTERS]) is not None


def spoken(response: str) -> str:
    """The report in a response: what comes after the thinking, without answer tags.

    Thinking that never ends is no report, nor is what follows its beginning. Where a prompt has opened the thinking
    already, the response holds its end alone.
    """
    report = response[:MAX_CHARACTERS].rpartition(_CLOSE_THINK)[2].partition(_OPEN_THINK)[0]
    return _ANSWER_TAG.sub(" ", report).strip()


def said(sample: Sample) -> str:
    """The report of a sample."""
    return spoken(sample.text) if sample.report is None else sample.report[:MAX_CHARACTERS]


class PairReward:
    """A metric of reports as a reward.

    Args:
        name: of its component.
        metric: takes the reference reports and what the responses say (``said``).
        floor: the reward of a response without a word, or where there is no reference report; no response
            with words gets less.
        sign: -1 for a metric of which less is better.
    """

    def __init__(self, name: str, metric: PairMetric, floor: float, sign: int = 1) -> None:
        self._name, self._metric, self._floor, self._sign = name, metric, floor, sign

    def score(self, batch: Sequence[Sample]) -> list[Score]:
        """One Score per sample, not below the floor."""
        pairs = {i: (sample.target_text or "", said(sample)) for i, sample in enumerate(batch)}
        pairs = {i: pair for i, pair in pairs.items() if all(map(has_words, pair))}
        scores = self._metric.score_pairs([ref for ref, _ in pairs.values()], [hyp for _, hyp in pairs.values()])
        values = dict(zip(pairs, (self._sign * score for score in scores), strict=True))
        return [self._one(sample, values.get(i, self._floor)) for i, sample in enumerate(batch)]

    def _one(self, sample: Sample, value: float) -> Score:
        # A number that is not finite goes on as it is: whoever adds rewards up flags it.
        value = self._floor if value < self._floor else value
        return Score(value, {self._name: value}, flags_of(sample))
