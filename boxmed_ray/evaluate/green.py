"""GREEN (Ostmeier et al., arXiv 2405.03595): errors and matched findings that a judge counts, and the score of them.

What lives here: what is asked, how a reply is read, the formula. What does not: asking (judge.py).

    GREEN = matched / (matched + clinically significant errors), 0 where nothing matches

Two ways to ask. ``schema`` is our own question to any instructed model, its reply held to a JSON schema. ``published``
asks the question that the metric's authors trained their judge on (GREEN-RadLlama2), which the caller brings in a file,
and reads the sections of its reply. Numbers of the two, and of two judges, do not compare.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ERRORS: Final[Mapping[str, str]] = {
    "false_finding": "a finding that the candidate reports and the reference does not have",
    "missing_finding": "a finding of the reference that the candidate leaves out",
    "wrong_location": "a finding in both, at another anatomic place or on another side",
    "wrong_severity": "a finding in both, of another severity",
    "false_comparison": "a comparison with an earlier study that the reference does not make",
    "missing_comparison": "a change since an earlier study that the candidate leaves out",
}
"""Kinds of errors, in the order of the paper's letters (a) to (f)."""

_MOST = 50
_EXPLANATION = 1200

QUESTION: Final = f"""You are an experienced radiologist. Judge a candidate report of a chest X-ray against \
the reference report that a radiologist wrote. What counts is clinical content; wording, order and style do not.

Count, in the candidate, errors of each of these kinds, once as significant (they could change what is done for the \
patient) and once as insignificant:
{chr(10).join(f"- {name}: {meaning}" for name, meaning in ERRORS.items())}
An error has one kind. Then count the findings, present or absent, on which the two reports agree ("matched").

Reference report:
{{reference}}

Candidate report:
{{candidate}}

Reply with JSON: first "explanation", naming each error and each matched finding in a few words, then the counts \
"significant" and "insignificant", each with all six kinds, then "matched"."""


def _counts() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 0, "maximum": _MOST} for name in ERRORS},
        "required": list(ERRORS),
        "additionalProperties": False,
    }


SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "explanation": {"type": "string", "maxLength": _EXPLANATION},
        "significant": _counts(),
        "insignificant": _counts(),
        "matched": {"type": "integer", "minimum": 0, "maximum": _MOST},
    },
    "required": ["explanation", "significant", "insignificant", "matched"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class GreenVerdict:
    """What the judge counted in one report: errors by kind, and matched findings."""

    significant: Mapping[str, int]
    insignificant: Mapping[str, int]
    matched: int
    explanation: str = ""

    @property
    def score(self) -> float:
        """GREEN, in [0, 1]."""
        return self.matched / (self.matched + sum(self.significant.values())) if self.matched else 0.0


def read_schema(reply: str | None) -> GreenVerdict | None:
    """A reply to ``QUESTION``; None where it is not of the form."""
    try:
        row = json.loads(reply or "")
        significant, insignificant = ({name: _count(row[part][name]) for name in ERRORS} for part in _PARTS)
        return GreenVerdict(significant, insignificant, _count(row["matched"]), str(row.get("explanation", "")))
    except (ValueError, KeyError, TypeError):
        return None


_PARTS: Final = ("significant", "insignificant")
_HEADING = re.compile(
    r"^[\s*#]*\[(explanation|clinically significant errors|clinically insignificant errors|matched findings)\][*:]*",
    re.IGNORECASE | re.MULTILINE,
)
_LETTER = re.compile(r"^\s*\(([a-f])\)[^\n]*?:\s*(\d+)\b", re.IGNORECASE | re.MULTILINE)
_FIRST = re.compile(r"\s*(\d+)\b")


def read_published(reply: str | None) -> GreenVerdict | None:
    """A reply of the published judge: four sections under headings in brackets.

    A kind that a section does not list counts 0, and so do matched findings where a section says in words that there
    are none; a reply without the section of significant errors or of matched findings is unreadable: None.
    """
    sections = _sections(reply or "")
    if not {"clinically significant errors", "matched findings"} <= sections.keys():
        return None
    matched = _FIRST.match(sections["matched findings"])
    return GreenVerdict(
        _lettered(sections["clinically significant errors"]),
        _lettered(sections.get("clinically insignificant errors", "")),
        int(matched[1]) if matched else 0,
        sections.get("explanation", "").strip(),
    )


def _sections(reply: str) -> dict[str, str]:
    """Heading, in lower case → what follows it."""
    _, *parts = _HEADING.split(reply)
    return {heading.lower(): text for heading, text in zip(parts[::2], parts[1::2], strict=True)}


def _lettered(section: str) -> dict[str, int]:
    counts = dict.fromkeys(ERRORS, 0)
    names = list(ERRORS)
    for letter, number in _LETTER.findall(section):
        counts[names["abcdef".index(letter.lower())]] = int(number)
    return counts


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
