"""From free text onto the knowledge banks: a report as chains Finding → Disease (via a concept) → Region.

What lives here: which chains a sentence states (arXiv 2504.18453 §3.2.1). What does not: the banks (knowledge.py), the
table and its form (concept_map.toml, concept_table.py), what words do to each other in a sentence
(rewards/text/labels.py), coverage over a corpus (concept_coverage.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from boxmed_ray.data.concept_table import (
    SIDED,
    Row,
    compile_marks,
    compile_phrases,
    read_source,
    shipped_text,
)
from boxmed_ray.data.prompts import NONE, format_response
from boxmed_ray.data.study import DataError
from rewards.categories import NO_FINDING, Status
from rewards.text.labels import mentions
from rewards.text.phrases import Found, Table, find_phrases

_SIGN: Final = {Status.NEGATIVE: "no ", Status.UNCERTAIN: "possible ", Status.POSITIVE: ""}
_STRENGTH: Final = {Status.NEGATIVE: 0, Status.UNCERTAIN: 1, Status.POSITIVE: 2}
_LUNG: Final = frozenset({*SIDED, "left lung", "right lung"})
"""Places that may say more exactly where in the lung something is."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One statement of a sentence.

    Attributes:
        sentence: its words.
        finding: name in the table; None where no word of it is known.
        status: of the finding: asserted, doubted or denied.
        via: the intermediate concept.
        disease: of the bank, or None.
        disease_status: of the disease: an indirect sign that is asserted leaves it uncertain, and No Finding is always
            positive.
        region: of the bank, or None.
    """

    sentence: str
    finding: str | None
    status: Status
    via: str | None
    disease: str | None
    disease_status: Status
    region: str | None

    def words(self) -> str:
        """As the model is taught to think it, with the sign of each link; links that are unknown are left out."""
        via = _SIGN[self.status] + self.via if self.via else None
        disease = _SIGN[self.disease_status] + self.disease if self.disease else None
        return " -> ".join(link for link in (self.sentence.rstrip("."), via, disease, self.region) if link)


@dataclass(frozen=True, slots=True)
class ConceptTable:
    """The mapping, compiled.

    Attributes:
        version: as the file says; goes into everything that is made with it.
        rows: of the findings.
        table: words of findings and what they do to each other.
        marks: words that tell where, on which side, or of the examination.
        reference: label of NIH ChestX-ray14 → findings that assert it.
    """

    version: str
    rows: Mapping[str, Row]
    table: Table
    marks: Table
    reference: Mapping[str, frozenset[str]]

    def response(self, report: str) -> str:
        """What a model is taught to answer when it is asked for the concepts of a radiograph with this report."""
        chains = [chain for chain in self.chains(report) if chain.finding]
        asserted = [chain.disease for chain in chains if chain.disease and chain.disease_status is Status.POSITIVE]
        diseases = [disease for disease in dict.fromkeys(asserted) if disease != NO_FINDING]
        think = "; ".join(chain.words() for chain in chains)
        return format_response(think or NONE, ", ".join(diseases) or NONE)

    def is_finding(self, sentence: str) -> bool:
        """Whether a sentence tells of the patient, as far as the table knows, and not of the examination."""
        if any(mention.finding in self.rows for mention in mentions(sentence, self.table)):
            return True
        return not any("examination" in mark.entry.subjects for mark in self._marks(sentence))

    def chains(self, report: str) -> list[Chain]:
        """Every statement of ``report``, in order; a sentence without a known word is a chain without links."""
        return [chain for sentence in split_sentences(report) for chain in self.sentence_chains(sentence)]

    def sentence_chains(self, sentence: str) -> list[Chain]:
        """The statements of one sentence: each finding once a region, with its strongest sign, in the order of words.

        Where no word of a finding is known but one that tells where, that is a chain of a region alone.
        """
        marks = self._marks(sentence)
        chains: dict[tuple[str, str | None], Chain] = {}
        for mention in mentions(sentence, self.table):
            row = self.rows.get(mention.finding)
            for region in _regions(row.region, mention.start, marks) if row else ():
                held = chains.get((mention.finding, region))
                if row and (held is None or _STRENGTH[mention.status] > _STRENGTH[held.status]):
                    chains[mention.finding, region] = _chain(sentence, mention.finding, mention.status, row, region)
        if chains:
            return list(chains.values())
        positive = Status.POSITIVE
        return [Chain(sentence, None, positive, None, None, positive, region) for region in _regions(NONE, 0, marks)]

    def _marks(self, sentence: str) -> list[Found]:
        return [found for found in find_phrases(sentence, self.marks.root) if found.entry.subjects]


def _chain(sentence: str, finding: str, status: Status, row: Row, region: str | None) -> Chain:
    disease, sign = row.disease, status
    if row.incidental or (status is Status.NEGATIVE and (disease == NONE or row.suggests)):
        disease, sign = NO_FINDING, Status.POSITIVE
    elif disease == NO_FINDING and status is not Status.POSITIVE:
        disease, sign = NONE, Status.POSITIVE  # "not midline" is no disease of the bank, and not nothing
    elif row.suggests:
        sign = Status.UNCERTAIN
    return Chain(sentence, finding, status, row.via, None if disease == NONE else disease, sign, region)


def _regions(row_region: str, start: int, marks: Sequence[Found]) -> tuple[str | None, ...]:
    """The regions of a mention at a token: its row's, or the place named nearest to it, on the side named nearest."""
    place = row_region
    if place == NONE or place in SIDED:
        named = [pair for pair in _named(marks, "place") if row_region == NONE or pair[1] in _LUNG]
        # What tells more than that it is somewhere in the lung counts before what tells that.
        named = [pair for pair in named if pair[1] != "lung"] or named
        place = min(named, key=lambda pair: _distance(pair[0], start))[1] if named else place
    if place not in SIDED:
        return (None if place == NONE else place,)
    left, right, both = SIDED[place]
    side = _side(start, marks)
    return (left,) if side == "left" else (right,) if side == "right" else both


def _side(start: int, marks: Sequence[Found]) -> str | None:
    """The side named nearest; None where none is."""
    return min(_named(marks, "side"), key=lambda pair: _distance(pair[0], start), default=(None, None))[1]


def _named(marks: Sequence[Found], kind: str) -> list[tuple[Found, str]]:
    groups = [(found, group) for found in marks for group in sorted(found.entry.subjects)]
    return [(found, group.removeprefix(f"{kind} ")) for found, group in groups if group.startswith(kind)]


def _distance(found: Found, start: int) -> int:
    """Words between; what stands before a finding belongs to it rather than what follows."""
    return start - found.start if found.start <= start else found.start - start + 1


_END = re.compile(r"(?<=[.!?;])\s+|\n+")


def split_sentences(report: str) -> list[str]:
    """Sentences of a report with at least one word, stripped; decimals and list numbers end none."""
    parts = (part.strip() for part in _END.split(report))
    return [part for part in parts if re.search(r"[A-Za-z]{2}", part)]


@cache
def shipped() -> ConceptTable:
    """The table of the package."""
    return compile_concepts(shipped_text(), "concept_map.toml")


def load_concepts(path: Path | None) -> ConceptTable:
    """The table of a file, or the shipped one.

    Raises:
        DataError: the file cannot be read, or an entry is wrong; the message names file, line and remedy.
    """
    if path is None:
        return shipped()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a TOML file in UTF-8") from error
    return compile_concepts(text, str(path))


def compile_concepts(text: str, where: str) -> ConceptTable:
    """A table from its text.

    Raises:
        DataError: names file, line and remedy.
    """
    source = read_source(text, where)
    reference = {label: frozenset(names) for label, names in source.reference.items()}
    return ConceptTable(source.version, source.finding, compile_phrases(source), compile_marks(source), reference)
