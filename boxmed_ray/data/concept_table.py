"""The concept table: reading, checking and laying one file over another.

What lives here: concepts.toml as data and the errors of a table of one's own, each with its line and a remedy. What does
not: the words themselves (concepts.toml, and the labeller's in rewards/text/phrases.toml), and what a sentence becomes
(chains.py).
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from boxmed_ray.data.knowledge import DISEASES, REGIONS
from boxmed_ray.data.study import DataError
from rewards.text import phrases as labeller

SIDED: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "lung": ("left lung", "right lung", ("whole lung",)),
    "apex": ("left apical zone", "right apical zone", ("left apical zone", "right apical zone")),
    "hilum": ("left hilar structures", "right hilar structures", ("left hilar structures", "right hilar structures")),
}
"""Place of the table with two sides → region on the left, on the right, and on both or neither that is named."""
SIDES: Final = ("left", "right", "both")
PLACES: Final = (*REGIONS, *SIDED)
_SHIPPED: Final = "concepts.toml"
_JOINED_KEYS: Final = ("joined", "doubtful", "denied")
_PHRASE: Final = re.compile(r"(?:[a-z]+|\([a-z |]*\))(?: (?:[a-z]+|\([a-z |]*\)))*")


def _one_of(allowed: Sequence[str]) -> BeforeValidator:
    def check(value: object) -> object:
        if value not in allowed:
            raise ValueError(f"{value!r} is unknown; use one of: {', '.join(allowed)}")
        return value

    return BeforeValidator(check)


def _check_phrase(value: object) -> object:
    if not isinstance(value, str) or _PHRASE.fullmatch(value) is None:
        raise ValueError(f"{value!r} is no phrase; write lower-case words, and (a|b) for either")
    return value


def _check_join(value: object) -> object:
    if not isinstance(value, str) or len(value.split(" + ")) != 2:
        raise ValueError(f'{value!r} joins nothing; write "GROUP + GROUP"')
    return value


Phrases = tuple[Annotated[str, BeforeValidator(_check_phrase)], ...]
_Joins = tuple[Annotated[str, BeforeValidator(_check_join)], ...]


class Row(BaseModel):
    """One ``[finding.NAME]`` of the table; concepts.toml says what the keys mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phrases: Phrases = ()
    joined: _Joins = ()
    doubtful: _Joins = ()
    denied: _Joins = ()
    disease: Annotated[str, _one_of(DISEASES)] | None = None
    incidental: bool = False
    suggests: bool = False
    via: str | None = Field(None, min_length=1)
    region: Annotated[str, _one_of(PLACES)] | None = None


class _Source(BaseModel):
    """A table file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(min_length=1, max_length=40)
    finding: dict[str, Row] = {}
    group: dict[str, Phrases] = {}
    place: dict[Annotated[str, _one_of(PLACES)], Phrases] = {}
    side: dict[Annotated[str, _one_of(SIDES)], Phrases] = {}
    aside: dict[Annotated[str, _one_of(("phrases",))], Phrases] = {}


@dataclass(frozen=True, slots=True)
class ConceptTable:
    """The table, ready to read sentences with.

    Attributes:
        version: as written in the file, with the start of a digest of all that decides what is read; of a table laid
            over the shipped one ``<shipped>+<own>``.
        rows: finding → its row.
        phrases: findings, groups and cues, for ``rewards.text.labels.mentions``.
        places: words that tell where, which side, or that nothing is found, as groups of a table.
    """

    version: str
    rows: Mapping[str, Row]
    phrases: labeller.Table
    places: labeller.Table


def load_concept_table(path: Path | None = None) -> ConceptTable:
    """The shipped table, or the one in ``path`` laid over it: its entries replace those of the same name.

    Raises:
        DataError: the file cannot be read, is not TOML or says something that a table cannot; file, line and remedy
            are named.
    """
    return _shipped() if path is None else _compile([_read_shipped(), _read(path)], path)


@cache
def _shipped() -> ConceptTable:
    return _compile([_read_shipped()], Path(_SHIPPED))


@cache
def _read_shipped() -> tuple[_Source, str]:
    text = (importlib.resources.files("boxmed_ray.data") / _SHIPPED).read_text(encoding="utf-8")
    return _parse(text, Path(_SHIPPED)), text


def _read(path: Path) -> tuple[_Source, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error}); give a TOML file in UTF-8") from error
    return _parse(text, path), text


def _parse(text: str, path: Path) -> _Source:
    try:
        return _Source.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: not TOML: {error}; see concepts.toml for how a table is written") from error
    except ValidationError as error:
        lines = [_explain(text, path, problem["loc"], problem) for problem in error.errors()]
        raise DataError("\n".join(lines)) from error


def _explain(text: str, path: Path, location: tuple[int | str, ...], problem: Any) -> str:
    named = [str(part) for part in location if isinstance(part, str) and part != "[key]"]
    what = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else problem["msg"]
    if problem["type"] == "extra_forbidden":
        known = Row.model_fields if named[0] == "finding" and len(named) > 1 else _Source.model_fields
        what = f"is no key of the table; use one of: {', '.join(known)}"
    elif problem["type"] == "missing":
        what = 'is missing; add e.g. version = "mine-1", and raise it whenever the table changes'
    given = problem["input"] if problem["type"] == "value_error" else None
    return f"{path}:{_line_of(text, named, given)}: {'.'.join(named)}: {what}"


def _line_of(text: str, named: Sequence[str], given: object = None) -> int:
    """The line at which a key of the file stands: of its section, of the key below it, of the value below that."""
    lines = text.splitlines()
    at = 0
    headers = [re.compile(rf"\s*\[{re.escape(named[0])}(?:\.[\"']?{re.escape(part)}[\"']?)?\]") for part in named[1:2]]
    patterns = [*headers, *(re.compile(rf"\s*[\"']?{re.escape(part)}[\"']?\s*=") for part in reversed(named))]
    for pattern in (*headers, re.compile(rf"\s*\[{re.escape(named[0])}\]")):
        at = next((i for i, line in enumerate(lines) if pattern.match(line)), at)
        if at:
            break
    at = next((i for pattern in patterns[len(headers) :] for i in range(at, len(lines)) if pattern.match(lines[i])), at)
    if isinstance(given, str):
        at = next((i for i in range(at, len(lines)) if f'"{given}"' in lines[i]), at)
    return at + 1


def _compile(sources: Sequence[tuple[_Source, str]], path: Path) -> ConceptTable:
    """Sources from the lowest to the one on top."""
    rows = {name: row for source, _ in sources for name, row in source.finding.items()}
    groups = _over([source.group for source, _ in sources])
    base = labeller.shipped_source()
    _check_joins(rows, {*groups, *base["group"]}, sources[-1][1], path)
    findings = {name: dict(finding) for name, finding in base["finding"].items()}
    for name, row in rows.items():
        known = findings.setdefault(name, {"phrases": []})
        for key in ("phrases", *_JOINED_KEYS):
            known[key] = [*known.get(key, ()), *getattr(row, key)]
    compiled = {
        "finding": findings,
        "group": {name: [*base["group"].get(name, ()), *groups.get(name, ())] for name in {**base["group"], **groups}},
        "cue": base["cue"],
    }
    places = {f"place {name}": words for name, words in _over([source.place for source, _ in sources]).items()}
    places |= {f"side {name}": words for name, words in _over([source.side for source, _ in sources]).items()}
    places |= {f"aside {name}": words for name, words in _over([source.aside for source, _ in sources]).items()}
    digest = hashlib.sha256(repr((sorted(rows.items()), compiled, places)).encode()).hexdigest()[:8]
    version = "+".join(source.version for source, _ in sources)
    return ConceptTable(
        f"{version} ({digest})",
        rows,
        labeller.compile_table(compiled),
        labeller.compile_table({"finding": {}, "group": places, "cue": {}}),
    )


def _over(layers: Sequence[Mapping[str, Phrases]]) -> dict[str, Phrases]:
    return {name: phrases for layer in layers for name, phrases in layer.items()}


def _check_joins(rows: Mapping[str, Row], groups: set[str], text: str, path: Path) -> None:
    for name, row in rows.items():
        for key in _JOINED_KEYS:
            for pattern in getattr(row, key):
                for group in pattern.split(" + "):
                    if group not in groups:
                        line = _line_of(text, ["finding", name, key], pattern)
                        raise DataError(
                            f"{path}:{line}: finding.{name}.{key}: group {group!r} is unknown; add it under [group] or "
                            f"use one of: {', '.join(sorted(groups))}"
                        )
