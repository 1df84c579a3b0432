"""From free text onto the knowledge banks: a report as chains Finding → Disease (via a concept) → Region.

What lives here: the mapping table and its application to sentences. What does not: the banks (knowledge.py), what words
do to each other in a sentence (rewards/text/labels.py), coverage over a corpus (concept_coverage.py).
"""

from __future__ import annotations

import importlib.resources
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from boxmed_ray.data.knowledge import DISEASES, REGIONS
from boxmed_ray.data.prompts import NONE, format_response
from boxmed_ray.data.study import DataError
from rewards.categories import NO_FINDING, Status
from rewards.text import phrases
from rewards.text.labels import Mention, mentions
from rewards.text.phrases import Table, compile_table, expand_phrase

_SIDES: Final = ("left", "right")
_FINDING_KEYS: Final = {"disease", "via", "region", "phrases", "joined", "doubtful", "denied"}
_TOP_KEYS: Final = {"version", "extends", "examination", "finding", "group", "cue", "place", "reference"}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a finding of the table means: None where the bank has no place for it."""

    disease: str | None
    via: str
    region: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Words that name a region; ``sided`` regions depend on left and right in the sentence."""

    words: re.Pattern[str]
    region: str
    otherwise: str
    both: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """One statement of a sentence.

    Attributes:
        sentence: its words.
        finding: name in the table; None where no word of it is known.
        status: asserted, doubted or denied.
        via: the intermediate concept.
        disease: of the bank, or None.
        region: of the bank, or None.
    """

    sentence: str
    finding: str | None
    status: Status
    via: str | None
    disease: str | None
    region: str | None

    def words(self) -> str:
        """As the model is taught to think it, with the sign of each link; links that are unknown are left out."""
        sign = {Status.NEGATIVE: "no ", Status.UNCERTAIN: "possible ", Status.POSITIVE: ""}[self.status]
        signed = [link if link in (None, NO_FINDING) else sign + link for link in (self.via, self.disease)]
        return " -> ".join(link for link in (self.sentence.rstrip("."), *signed, self.region) if link)


@dataclass(frozen=True, slots=True)
class ConceptTable:
    """The mapping, compiled.

    Attributes:
        version: as the file says; goes into everything that is made with it.
        table: words of findings and what they do to each other.
        meanings: of the findings.
        places: in the order in which they are looked for.
        examination: words of sentences that do not tell of the patient.
        reference: label of NIH ChestX-ray14 → findings that assert it.
    """

    version: str
    table: Table
    meanings: Mapping[str, Meaning]
    places: Sequence[Place]
    examination: re.Pattern[str]
    reference: Mapping[str, frozenset[str]]

    def response(self, report: str) -> str:
        """What a model is taught to answer when it is asked for the concepts of a radiograph with this report."""
        chains = [chain for chain in self.chains(report) if chain.finding]
        asserted = [chain.disease for chain in chains if chain.disease and chain.status is Status.POSITIVE]
        diseases = [disease for disease in dict.fromkeys(asserted) if disease != NO_FINDING]
        think = "; ".join(chain.words() for chain in chains)
        return format_response(think or NONE, ", ".join(diseases) or NONE)

    def is_finding(self, sentence: str) -> bool:
        """Whether a sentence tells of the patient, as far as the table knows, and not of the examination."""
        return bool(mentions(sentence, self.table)) or not self.examination.search(_plain(sentence))

    def chains(self, report: str) -> list[Chain]:
        """Every statement of ``report``, in order; a sentence without a known word is a chain without links."""
        return [chain for sentence in split_sentences(report) for chain in self.sentence_chains(sentence)]

    def sentence_chains(self, sentence: str) -> list[Chain]:
        """The statements of one sentence, each finding once, in the order of its words."""
        found = self._findings(mentions(sentence, self.table))
        place = self.region_of(sentence)
        if not found:
            return [Chain(sentence, None, Status.POSITIVE, None, None, place)]
        chains = []
        for name, status in found.items():
            meaning = self.meanings.get(name)
            if meaning is None:
                chains.append(Chain(sentence, name, status, name, None, place))
                continue
            disease = meaning.disease
            if disease is None and status is Status.NEGATIVE:
                disease = NO_FINDING
            chains.append(Chain(sentence, name, status, meaning.via, disease, place or meaning.region))
        return chains

    def _findings(self, found: Sequence[Mention]) -> dict[str, Status]:
        strongest: dict[str, Status] = {}
        for mention in found:
            held = strongest.get(mention.finding)
            if held is None or _ORDER[mention.status] > _ORDER[held]:
                strongest[mention.finding] = mention.status
        # "The lungs are clear": normal is said of something, which tells more.
        named = [name for name in strongest if (meaning := self.meanings.get(name)) and meaning.disease != NO_FINDING]
        return {
            name: status
            for name, status in strongest.items()
            if not named or name in named or name not in self.meanings
        }

    def region_of(self, sentence: str) -> str | None:
        """The region that the words of ``sentence`` name first in the order of the table, or None."""
        text = _plain(sentence)
        sides = {side for side in _SIDES if re.search(rf"\b{side}\b", text)}
        side = sides.pop() if len(sides) == 1 and not re.search(r"\b(bilateral|both|bi\w+)\b", text) else None
        for place in self.places:
            if place.words.search(text):
                if not place.both:
                    return place.region
                return place.region.format(side=side) if side else place.otherwise
        return None


def _plain(sentence: str) -> str:
    return " ".join(re.findall(r"[a-z]+", sentence.lower()))


_ORDER = {Status.NEGATIVE: 0, Status.UNCERTAIN: 1, Status.POSITIVE: 2}
_END = re.compile(r"(?<=[.!?;])\s+|\n+")


def split_sentences(report: str) -> list[str]:
    """Sentences of a report with at least one word, stripped; decimals and list numbers end none."""
    parts = (part.strip() for part in _END.split(report))
    return [part for part in parts if re.search(r"[A-Za-z]{2}", part)]


@cache
def shipped() -> ConceptTable:
    """The table of the package."""
    return compile_concepts(_shipped_source(), "concept_map.toml")


def load_concepts(path: Path | None) -> ConceptTable:
    """The table of a file, or the shipped one.

    Raises:
        DataError: the file cannot be read, or an entry is wrong; the message names it and the remedy.
    """
    if path is None:
        return shipped()
    try:
        source = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: not TOML: {error}") from error
    if source.get("extends") == "shipped":
        source = _merged(_shipped_source(), source)
    return compile_concepts(source, str(path))


def _shipped_source() -> dict[str, Any]:
    text = (importlib.resources.files("boxmed_ray.data") / "concept_map.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def compile_concepts(source: Mapping[str, Any], where: str) -> ConceptTable:
    """A table with the keys that concept_map.toml explains.

    Raises:
        DataError: names the entry and what it may be.
    """
    _check(source, where)
    words = {key: source.get(key, {}) for key in ("finding", "group", "cue")}
    base = phrases.shipped_source()
    merged = _merged(base, words)
    for name, finding in merged["finding"].items():
        finding.setdefault("phrases", [])
        if name not in base["finding"]:
            finding["category"] = None
    meanings = {
        name: Meaning(_or_none(entry["disease"]), entry["via"], _or_none(entry["region"]))
        for name, entry in source["finding"].items()
    }
    try:
        table = compile_table(merged)
    except ValueError as error:
        raise DataError(f"{where}: a joint is written SUBJECT + STATE, both of them groups: {error}") from error
    places = [_place(place) for place in source.get("place", ())]
    labels = {label: frozenset(names) for label, names in source.get("reference", {}).items()}
    return ConceptTable(
        str(source["version"]), table, meanings, places, _pattern(source.get("examination", ())), labels
    )


def _check(source: Mapping[str, Any], where: str) -> None:
    if unknown := source.keys() - _TOP_KEYS:
        raise DataError(f"{where}: unknown key {sorted(unknown)[0]!r}; there are {', '.join(sorted(_TOP_KEYS))}")
    if not source.get("version") or not isinstance(source.get("finding"), Mapping):
        raise DataError(f'{where}: needs version = "…" and [finding.…] entries')
    for name, entry in source["finding"].items():
        _check_finding(f"{where}: finding {name!r}", entry)
    for number, place in enumerate(source.get("place", ()), 1):
        for key in ("region", "otherwise"):
            for region in _sided(place.get(key, REGIONS[0])):
                if region not in REGIONS:
                    raise DataError(
                        f"{where}: place {number}: {region!r} is no region; use one of {', '.join(REGIONS)}"
                    )
        if not place.get("words") or "region" not in place:
            raise DataError(f"{where}: place {number}: needs words and region")
        if "{side}" in place["region"] and "otherwise" not in place:
            raise DataError(f"{where}: place {number}: needs otherwise, for sentences that name no side or both")


def _check_finding(where: str, entry: Mapping[str, Any]) -> None:
    if unknown := entry.keys() - _FINDING_KEYS:
        raise DataError(f"{where}: unknown key {sorted(unknown)[0]!r}; there are {', '.join(sorted(_FINDING_KEYS))}")
    if missing := {"disease", "via", "region"} - entry.keys():
        raise DataError(f"{where}: lacks {', '.join(sorted(missing))}")
    if entry["disease"] not in (*DISEASES, NONE):
        raise DataError(f"{where}: {entry['disease']!r} is no disease; use one of {', '.join(DISEASES)}, or {NONE}")
    if entry["region"] not in (*REGIONS, NONE):
        raise DataError(f"{where}: {entry['region']!r} is no region; use one of {', '.join(REGIONS)}, or {NONE}")


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """``more`` added to ``base``: tables by key, lists joined, what else is replaced."""
    out = dict(base)
    for key, value in more.items():
        held = out.get(key)
        if isinstance(held, Mapping) and isinstance(value, Mapping):
            out[key] = _merged(held, value)
        elif isinstance(held, list) and isinstance(value, list):
            out[key] = [*value, *held]
        else:
            out[key] = dict(value) if isinstance(value, Mapping) else value
    return out


def _sided(region: str) -> Iterator[str]:
    yield from (region.format(side=side) for side in _SIDES) if "{side}" in region else (region,)


def _place(place: Mapping[str, Any]) -> Place:
    region = place["region"]
    words = _pattern([word.replace("{side}", "(left|right)") for word in place["words"]])
    return Place(words, region, place.get("otherwise", region), "{side}" in region)


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Any of the phrases, in singular and regular plural, the longest first; of no phrases, what is nowhere."""
    spelled = itertools.chain.from_iterable(map(expand_phrase, words))
    forms = sorted({r"\s".join(map(re.escape, parts)) + "s?" for parts in spelled}, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(forms)})\b" if forms else r"(?!)")


def _or_none(name: str) -> str | None:
    return None if name == NONE else name
