"""Habits of speech that a reward may breed without being asked: short or long reports, one report for all, boxes.

What lives here: the counts. What does not: when they are counted and what is made of them (boxmed_ray/stages/drift.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from rewards.sample import Sample
from rewards.text.pair import MAX_CHARACTERS, said

_SPACE = re.compile(r"\s+")


def habits(samples: Sequence[Sample], studies: Sequence[str]) -> dict[str, list[float]]:
    """Name → one number a sample, whose mean is the habit.

    ``characters`` of the report (of the whole response where there is no reference report), ``boxes`` it has,
    ``distinct``: 1 the first time that a text is said, so that the mean is the share of distinct ones; ``copied``: 1
    where the same text is said about another study.

    Args:
        samples: one or more.
        studies: that each is about.
    """
    texts = [said(sample) if sample.target_text else sample.text[:MAX_CHARACTERS].strip() for sample in samples]
    plain = [_SPACE.sub(" ", text).casefold() for text in texts]
    first = {text: i for i, text in reversed(list(enumerate(plain)))}
    about: dict[str, set[str]] = defaultdict(set)
    for text, study in zip(plain, studies, strict=True):
        about[text].add(study)
    return {
        "characters": [float(len(text)) for text in texts],
        "distinct": [float(first[text] == i) for i, text in enumerate(plain)],
        "copied": [float(len(about[text]) > 1) for text in plain],
        "boxes": [float(len(sample.boxes or ())) for sample in samples],
    }


HABITS = tuple(habits([Sample("", None, False, ())], [""]))
"""Names of the habits."""


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of the population) of one or more numbers."""
    mean = fmean(values)
    return mean, fmean((value - mean) ** 2 for value in values) ** 0.5
