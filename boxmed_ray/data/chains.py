"""A report becomes sentences, and a sentence becomes chains: finding → disease → region, each with its sign.

What lives here: which chains a sentence states (arXiv 2504.18453 §3.2.1). What does not: words (concepts.toml), how a
sentence is read for denial and doubt (rewards/text/labels.py), the text of a chain in a response (prompts.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from boxmed_ray.data.concept_table import SIDED, ConceptTable, Row, load_concept_table
from rewards.categories import NO_FINDING, Status
from rewards.text.labels import Mention, mentions
from rewards.text.phrases import SENTENCE_END, Found, find_phrases

_SENTENCE: Final = re.compile(r"[^.;?!\n]*(?:\.(?=\d)[^.;?!\n]*)*[.;?!]*")
_LETTERS: Final = re.compile(r"[A-Za-z]")
_NUMBERING: Final = re.compile(r"^(?:\d+[.)]|[-*•])\s*")
_LUNG: Final = frozenset({*SIDED, "left lung", "right lung", "left apical zone", "right apical zone"})
"""Places that may say more exactly where in the lung something is."""
_FAR: Final = 10_000


@dataclass(frozen=True, slots=True)
class Chain:
    """One statement of a sentence.

    Attributes:
        finding: the row of the table that read it; empty where only a place was named.
        status: of the disease. An indirect sign that is asserted leaves it uncertain.
        disease: one of the 14, or None where none covers the finding. No Finding is always positive.
        via: the intermediate concept, None where the statement is a denial that leads nowhere.
        regions: of the 12; none where nothing tells, two where both sides of a paired region are meant.
    """

    finding: str
    status: Status
    disease: str | None
    via: str | None
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence of a report with its chains, none where the table has nothing for it."""

    sentence: str
    chains: tuple[Chain, ...]
    aside: bool = False
    """It speaks of the examination, not of what is seen: technique, comparison, advice."""

    @property
    def diseases(self) -> tuple[str, ...]:
        """Diseases it speaks of, asserted, doubted or denied, each once."""
        return tuple(dict.fromkeys(chain.disease for chain in self.chains if chain.disease))

    @property
    def regions(self) -> tuple[str, ...]:
        """Regions it speaks of, each once."""
        return tuple(dict.fromkeys(region for chain in self.chains for region in chain.regions))


def sentences(report: str) -> list[str]:
    """The sentences of a report as written, without numbering; what has no letter is none."""
    found = (" ".join(match.split()) for match in _SENTENCE.findall(report))
    bare = (_NUMBERING.sub("", sentence) for sentence in found)
    return [sentence for sentence in bare if _LETTERS.search(sentence)]


def read_report(report: str, table: ConceptTable | None = None) -> list[Statement]:
    """Every sentence of a report with its chains, in order. Never raises."""
    table = table or load_concept_table()
    return [read_sentence(sentence, table) for sentence in sentences(report)]


def read_sentence(sentence: str, table: ConceptTable) -> Statement:
    """The chains of one sentence; mentions of one disease with the same sign and place are one chain."""
    marks = [found for found in find_phrases(sentence, table.places.root) if SENTENCE_END not in found.entry.cues]
    chains: dict[tuple[str | None, Status, tuple[str, ...]], Chain] = {}
    for mention in mentions(sentence, table.phrases):
        row = table.rows.get(mention.finding)
        if row is not None:
            chain = _chain(mention, row, marks)
            chains.setdefault((chain.disease, chain.status, chain.regions), chain)
    if not chains and not _named(marks, "aside"):
        regions = _place_of(None, 0, marks)
        if regions:
            return Statement(sentence, (Chain("", Status.POSITIVE, None, None, regions),))
    return Statement(sentence, tuple(chains.values()), not chains and bool(_named(marks, "aside")))


def asserted(statements: Iterable[Statement]) -> dict[str, Status]:
    """Disease → positive or uncertain, the stronger where both are said; No Finding where there is none."""
    diseases: dict[str, Status] = {}
    for chain in (chain for statement in statements for chain in statement.chains):
        if chain.disease and chain.disease != NO_FINDING and chain.status is not Status.NEGATIVE:
            known = diseases.get(chain.disease)
            diseases[chain.disease] = chain.status if known is not Status.POSITIVE else known
    return diseases or {NO_FINDING: Status.POSITIVE}


def _chain(mention: Mention, row: Row, marks: Sequence[Found]) -> Chain:
    regions = _place_of(row.region, mention.start, marks)
    status, via = mention.status, row.via
    if row.incidental or (status is Status.NEGATIVE and (row.disease is None or row.suggests)):
        denied = status is Status.NEGATIVE
        return Chain(mention.finding, Status.POSITIVE, NO_FINDING, None if denied else via, regions)
    if row.disease == NO_FINDING and status is not Status.POSITIVE:
        return Chain(mention.finding, status, None, None, regions)  # "not midline" is no disease of the bank
    if row.suggests and status is Status.POSITIVE:
        status = Status.UNCERTAIN
    return Chain(mention.finding, status, row.disease, via, regions)


def _place_of(default: str | None, start: int, marks: Sequence[Found]) -> tuple[str, ...]:
    """The regions of a mention: its row's, or the place named nearest to it, on the side named nearest."""
    place = default
    if default is None or default in SIDED:
        named = [(found, name) for found, name in _named(marks, "place") if default is None or name in _LUNG]
        # What says more than that it is a lung counts before what only says that.
        named = [pair for pair in named if pair[1] != "lung"] or named
        if named:
            place = min(named, key=lambda pair: _distance(pair[0], start))[1]
    if place is None or place not in SIDED:
        return (place,) if place else ()
    left, right, both = SIDED[place]
    side = _side_of(start, marks)
    return (left,) if side == "left" else (right,) if side == "right" else both


def _side_of(start: int, marks: Sequence[Found]) -> str | None:
    """The side named nearest; both where left and right stand within four words of each other."""
    named = _named(marks, "side")
    if not named:
        return None
    nearest, side = min(named, key=lambda pair: _distance(pair[0], start))
    others = (name for found, name in named if name != side and abs(found.start - nearest.start) <= 4)
    return "both" if any(others) else side


def _named(marks: Sequence[Found], kind: str) -> list[tuple[Found, str]]:
    return [
        (found, group.removeprefix(f"{kind} "))
        for found in marks
        for group in sorted(found.entry.subjects)
        if group.startswith(f"{kind} ")
    ]


def _distance(found: Found, start: int) -> int:
    """Words between; what stands before a finding belongs to it rather than what follows."""
    return start - found.start if found.start <= start else found.start - start + 1
