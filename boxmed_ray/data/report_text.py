"""A report as it is published -> the findings paragraph a model is trained to write.

What lives here: bytes to text, the sections of a report, and cleaning (arXiv 2504.18453 §4.2: the findings section,
without excess white space, special characters and empty entries). What does not: where reports lie (readers/), what
they say (concepts.py).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Final


class Section(StrEnum):
    """What a header opens."""

    FINDINGS = "findings"
    VIEW = "view"
    """Named after the examination ("CHEST, TWO VIEWS:"): its findings, where the report has no section of that name."""
    ADDENDUM = "addendum"
    """Or a preliminary reading: no part of the report itself."""
    RULE = "rule"
    """The title of another report in the same text, or a line drawn between two: ends an addendum."""
    OTHER = "other"


_FINDINGS: Final = frozenset(
    {"findings", "finding", "finding(s)", "findings and impression", "findings/impression", "findings impression",
     "findings & impression", "impression and findings", "impression/findings", "findings and recommendation",
     "findings and recommendations", "findings and conclusion", "chest findings", "reference findings",
     "report findings", "radiographic findings"}
)  # fmt: skip
_OTHER: Final = frozenset(
    {"impression", "impressions", "conclusion", "conclusions", "pression", "comparison", "comparisons",
     "comparison exam", "comparison film", "comparison films", "reference exam", "reference examination", "indication",
     "indications", "clinical indication", "clinical indications", "clinical history", "clinical information",
     "clinical data", "patient history", "history", "history of present illness", "reason for exam",
     "reason for examination", "reason for study", "reason for the exam", "reason for this examination",
     "examination", "type of examination", "type of exam", "technique", "procedure", "recommendation",
     "recommendations", "recommendation(s)", "notification", "notifications", "diagnosis", "pfi"}
)  # fmt: skip
_OTHER_IN_CAPITALS: Final = frozenset(
    {"exam", "exams", "study", "date", "note", "notes", "comment", "comments", "cc", "summary", "opinion",
     "provisional findings impression", "attestation", "dose", "signed", "report",
     "medical condition", "underlying medical condition", "dictated by"}
)  # fmt: skip
"""Words that also begin a line inside the findings ("Note: the tip of …"): headers in capitals only."""
_PRELIMINARY: Final = frozenset({"wet read", "wetread", "preliminary report"})
_MISSPELT: Final = ("findings", "impression", "conclusion", "comparison", "indication")
_HOLDS_FINDINGS: Final = re.compile(r"(?:\w+ )?findings(?: \w+)?")
_HOLDS_OTHER: Final = re.compile(
    r"(?:[\w/&]+ ){0,3}(?:(?:impression|conclusion|comparison|indication|recommendation)s?|history)(?: [\w/&]+){0,3}"
)
"""Names in capitals around a word that names a section: "FINAL IMPRESSION", "COMPARISON STUDIES"."""
_VIEW: Final = re.compile(r"chest|radiograph|views?\b|portable|frontal|\bpa\b|\bap\b|lateral|upright|supine|\bribs\b")

_LINE: Final = re.compile(
    r"^[ \t]*(?P<name>[A-Za-z](?:[A-Za-z0-9 \t,/&()'._#-]|(?<=\d):(?=\d)){0,78}?)[ \t]*:(?=\s|$|[A-Za-z_])", re.M
)
_ALONE: Final = re.compile(
    r"^[ \t]*(?P<name>FINDINGS|IMPRESSION|CONCLUSION|COMPARISON|INDICATION|TECHNIQUE|HISTORY|EXAMINATION"
    r"|ADDENDUM|FINAL REPORT|FINAL ADDENDUM|WET READ)[.;]?(?=[ \t]*$|[ \t]{2,}[A-Z])",
    re.M,
)
_INLINE: Final = re.compile(
    r"(?<=[\s.;])(?P<name>FINDINGS?(?:(?: AND |/)IMPRESSION)?|IMPRESSIONS?|CONCLUSIONS?|COMPARISONS?|INDICATIONS?"
    r"|TECHNIQUE|RECOMMENDATIONS?|NOTIFICATION|Impression|Pression)[ \t]*:"
)
_DRAWN: Final = re.compile(r"^[ \t]*(?P<name>_{10,}|={10,}|-{10,})[ \t]*$", re.M)


@dataclass(frozen=True, slots=True)
class _Part:
    kind: Section
    text: str


def decode_report(data: bytes) -> str:
    """Text of a report: UTF-8, with or without a mark, UTF-16 with one, else Windows' Latin. Never fails.

    Reports are typed in many systems. What is no character in Windows' Latin either becomes a space.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace").replace("\ufffd", " ")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace").replace("\ufffd", " ")


def findings_of(report: str) -> str | None:
    """The cleaned findings paragraph of a whole report; None where it has none or nothing is left of it.

    Headers are read at the start of a line in any case, alone on a line or inside one in capitals. Headers inside the
    findings ("LUNGS:", "Right shoulder:") stay part of them. Addenda are no findings, unless the report has no others.
    Several findings sections follow each other. A section of findings and impression in one is taken whole.
    """
    parts = _parts(report.replace("\r\n", "\n").replace("\r", "\n"))
    own = _outside_addenda(parts)
    for candidates, kind in ((own, Section.FINDINGS), (parts, Section.FINDINGS), (own, Section.VIEW)):
        texts = dict.fromkeys(clean_report(part.text) for part in candidates if part.kind is kind)
        found = " ".join(text for text in texts if text)
        if found:
            return found
    return None


def _parts(text: str) -> list[_Part]:
    """The sections of a report in order; headers that are no section's stay in the text of the one they are in."""
    headers: list[tuple[int, int, Section]] = []
    matches = sorted(
        (match for pattern in (_LINE, _ALONE, _INLINE, _DRAWN) for match in pattern.finditer(text)),
        key=lambda match: (match.start("name"), -match.end()),
    )
    end, inside = 0, Section.OTHER
    for match in matches:
        kind = _kind(match["name"], inside)
        if kind is not None and match.start("name") >= end:
            headers.append((match.start("name"), match.end(), kind))
            end, inside = match.end(), kind
    ends = [start for start, _, _ in headers[1:]] + [len(text)]
    return [_Part(kind, text[after:stop]) for (_, after, kind), stop in zip(headers, ends, strict=False)]


def _kind(header: str, inside: Section) -> Section | None:
    """What a header opens; None where it is part of the text, as "LUNGS" is."""
    if header[0] in "_=-":
        return Section.RULE
    name = " ".join(header.lower().replace("/ ", "/").replace(" /", "/").strip(" .-").split())
    capitals = header.isupper()
    if name == "final report":
        return Section.RULE
    if name == "addendum" or (capitals and ("addendum" in name or name in _PRELIMINARY)):
        return Section.ADDENDUM
    named = _named(name, capitals)
    # "CHEST:" inside the findings is a part of them, before them it may be all there is.
    if named is None and capitals and inside is not Section.FINDINGS and _VIEW.search(name):
        return Section.VIEW
    return named


def _named(name: str, capitals: bool) -> Section | None:
    """The section a lower-case name is of, a letter or two amiss at most; None for other names."""
    if name in _FINDINGS:
        return Section.FINDINGS
    if name in _OTHER or (capitals and (name in _OTHER_IN_CAPITALS or name.startswith("findings were "))):
        return Section.OTHER
    if capitals and _HOLDS_FINDINGS.fullmatch(name):
        return Section.FINDINGS
    if capitals and _HOLDS_OTHER.fullmatch(name):
        return Section.OTHER
    for word in _MISSPELT:
        if abs(len(word) - len(name)) <= 2 and SequenceMatcher(None, name, word).ratio() >= 0.8:
            return Section.FINDINGS if word == "findings" else Section.OTHER
    return None


def _outside_addenda(parts: list[_Part]) -> list[_Part]:
    """What belongs to the report itself: an addendum goes on to the next title or drawn line."""
    own, skipping = [], False
    for part in parts:
        if part.kind in {Section.ADDENDUM, Section.RULE}:
            skipping = part.kind is Section.ADDENDUM
        elif not skipping:
            own.append(part)
    return own


_SAME: Final = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-",
     "…": "...", "×": "x", "≤": "<=", "≥": ">=", "\u00a0": " ", "\u00ad": "", "\u200b": "", "\ufeff": ""}
)  # fmt: skip
_X_RAY: Final = re.compile(r"\b(x)[- ]XXXX\b", re.I)
_MARK: Final = re.compile(r"\[\*\*[^\]]{0,200}\*\*\]|(?<![A-Za-z])X{3,}(?:'[a-z]+)?(?![A-Za-z])|_{2,}")
_NUMBERED: Final = re.compile(r"^[ \t]*\d{1,2}[.)][ \t]+(?=[A-Za-z])", re.M)
_TAG: Final = re.compile(r"</?(?:br|p|b|i|u|div|span)\s*/?>", re.I)
_STRAY: Final = re.compile(r"[^\w\s.,;:()/%'\"+<>=°&?-]|_|[<>](?!\s*=?\s*\d)")
_TIDY: Final = (
    (re.compile(r"\(\s*[,;.\s-]*\)"), ""),  # brackets that held a mark alone
    (re.compile(r"(?<=\w)[-/](?=\s|[.,;:)]|$)|(?<![\w.])[-/](?=[A-Za-z])"), " "),  # "dual-XXXX", "XXXX/granulomas"
    (re.compile(r"(?<!\S)['\"=/&+-]+(?=\s|$)"), " "),
    (re.compile(r"\s+"), " "),
    (re.compile(r"\s+([.,;:)])"), r"\1"),
    (re.compile(r"([(])\s+"), r"\1"),
    (re.compile(r"[,;:]+(?=[.,;:])"), ""),
    (re.compile(r"\.{2,}"), "."),
    (re.compile(r"(?<=[a-z])\.(?=[A-Z][a-z])"), ". "),
    (re.compile(r"^[\s.,;:)/-]+|(?<=[.])[,;:]+$"), ""),
)


def clean_report(text: str) -> str:
    """Text of a report on one line: without de-identification marks, control and stray characters.

    Marks are ``___`` (MIMIC), ``XXXX`` (Open-i) and ``[**…**]``; "x-XXXX" is an x-ray. Punctuation that a mark leaves
    behind goes with it, as do numbers of lists. Clean text comes back as it is.
    """
    before = None
    while text != before:  # what one round lays bare, another takes: a number of a list behind a stray bracket
        before, text = text, _cleaned_once(text)
    return text if any(character.isalpha() for character in text) else ""


def _cleaned_once(text: str) -> str:
    text = unicodedata.normalize("NFC", text.translate(_SAME))
    text = "".join(" " if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)
    text = _X_RAY.sub(r"\1-ray", text)
    text = _STRAY.sub(" ", _TAG.sub(" ", _NUMBERED.sub("", _MARK.sub(" ", text))))
    before = None
    while text != before:  # a mark inside brackets inside a list takes two rounds
        before = text
        for pattern, replacement in _TIDY:
            text = pattern.sub(replacement, text)
        text = text.strip()
    return text
