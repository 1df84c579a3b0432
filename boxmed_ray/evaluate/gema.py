"""GEMA-Score (Zhang et al., arXiv 2503.05347): what a judge finds right and wrong by aspect, and its ratings.

What lives here: what is asked, how a reply is read, the score. What does not: asking (judge.py).

Objective: F1 of entities, of their locations, severities and uncertainties, from what the judge counts as in both
reports, in the candidate only, and in the reference only. Subjective: its ratings of completeness, readability and
terminology. The paper's score is a weighted sum whose weights its authors keep in their hosted workflow; so there are
two ways, and their numbers do not compare:

- ``schema``: our own question to any instructed model. The score is the mean of the mean F1 and the mean rating.
- ``published``: the question for the authors' distilled judge, which the caller brings in a file; the score is the
  ``weighted_final_score`` that this judge writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

ASPECTS: Final[Mapping[str, str]] = {
    "entity": "findings, diseases and devices that are said to be there or absent",
    "location": "where they are, side included",
    "severity": "how severe, large or many they are",
    "uncertainty": "how certain the report is of them",
}
RATINGS: Final[Mapping[str, str]] = {
    "completeness": "it covers what a complete report would",
    "readability": "it reads clearly and in good order",
    "terminology": "it uses clinical terms, and correctly",
}
_KINDS: Final = ("both", "candidate_only", "reference_only")
_MOST, _FULL, _EXPLANATION = 50, 100, 1200

QUESTION: Final = f"""You are an experienced radiologist. Judge a candidate report of a chest X-ray against \
the reference report that a radiologist wrote.

First compare content, aspect by aspect:
{chr(10).join(f"- {name}: {meaning}" for name, meaning in ASPECTS.items())}
For each aspect count the statements on which both reports agree ("both"), those that the candidate makes and the \
reference does not ("candidate_only"), and those of the reference that the candidate lacks or gets wrong \
("reference_only").

Then rate the candidate's prose from 0 to {_FULL}:
{chr(10).join(f"- {name}: {meaning}" for name, meaning in RATINGS.items())}

Reference report:
{{reference}}

Candidate report:
{{candidate}}

Reply with JSON: first "explanation" in a few sentences, then the four aspects with their three counts, then the three \
ratings."""


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _integer(most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": most}


SCHEMA: Final[Mapping[str, Any]] = _object(
    {"explanation": {"type": "string", "maxLength": _EXPLANATION}}
    | {name: _object({kind: _integer(_MOST) for kind in _KINDS}) for name in ASPECTS}
    | {name: _integer(_FULL) for name in RATINGS}
)


@dataclass(frozen=True, slots=True)
class GemaVerdict:
    """The judge's verdict on one report.

    Attributes:
        score: in [0, 1].
        f1: aspect → F1 in [0, 1]; an aspect of which neither report says anything is absent.
        ratings: name → rating in [0, 1].
        explanation: in the judge's words.
    """

    score: float
    f1: Mapping[str, float]
    ratings: Mapping[str, float]
    explanation: str = ""


def read_schema(reply: str | None) -> GemaVerdict | None:
    """A reply to ``QUESTION``; None where it is not of the form. F1 of two reports that say nothing is 1."""
    try:
        row = json.loads(reply or "")
        counts = {name: [_number(row[name][kind], _MOST) for kind in _KINDS] for name in ASPECTS}
        ratings = {name: _number(row[name], _FULL) / _FULL for name in RATINGS}
    except (ValueError, KeyError, TypeError):
        return None
    f1 = {
        name: 2 * both / (2 * both + more + less) for name, (both, more, less) in counts.items() if both + more + less
    }
    objective = fmean(f1.values()) if f1 else 1.0
    return GemaVerdict((objective + fmean(ratings.values())) / 2, f1, ratings, str(row.get("explanation", "")))


def read_published(reply: str | None) -> GemaVerdict | None:
    """A reply of the authors' distilled judge: JSON with ``weighted_final_score`` in [0, 1], perhaps as a string.

    Its counts lack what both reports share, so there is no F1; its ratings are kept where they are in [0, 1].
    """
    row = _json_in(reply or "")
    try:
        score = _number(row["weighted_final_score"], 1)
    except (KeyError, ValueError):
        return None
    ratings = {}
    for name, key in (("completeness", "completeness_score"), ("readability", "readability_score")):
        try:
            ratings[name] = _number(row[key], 1)
        except (KeyError, ValueError):
            continue
    reasons = (str(value) for key, value in row.items() if key.endswith(("_explanation", "_reason")) and value)
    return GemaVerdict(score, {}, ratings, " ".join(reasons))


def _json_in(reply: str) -> dict[str, Any]:
    """The first JSON object in a text, quoted as a string or not; empty where there is none."""
    for text in (reply, reply.replace('\\"', '"').replace("\\n", "\n")):
        start = text.find("{")
        if start < 0:
            continue
        try:
            row, _ = json.JSONDecoder().raw_decode(text[start:])
        except ValueError:
            continue
        if isinstance(row, dict):
            return row
    return {}


def _number(value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is not from 0 to {most:g}")
    return value
