"""The table that maps words onto the knowledge banks: read, checked, laid over the shipped one, compiled.

What lives here: the form of concept_map.toml and the errors of a table of one's own, each with its line and the remedy.
What does not: the words themselves (concept_map.toml, rewards/text/phrases.toml), what a sentence becomes
(concept_map.py).
"""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from boxmed_ray.data.knowledge import DISEASES, REGIONS
from boxmed_ray.data.prompts import NONE
from boxmed_ray.data.study import DataError
from rewards.text import phrases as labeller

SIDED: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "lung": ("left lung", "right lung", ("whole lung",)),
    "apex": ("left apical zone", "right apical zone", ("left apical zone", "right apical zone")),
    "hilum": ("left hilar structures", "right hilar structures", ("left hilar structures", "right hilar structures")),
}
"""Place of the table with two sides → region on the left, on the right, and where no side or both are named."""
_PLACES: Final = (*REGIONS, *SIDED)
_JOINTS: Final = ("joined", "doubtful", "denied")
_PHRASE: Final = re.compile(r"(?:[a-z]+|\([a-z |]*\))(?: (?:[a-z]+|\([a-z |]*\)))*")


def _one_of(*allowed: str) -> BeforeValidator:
    def check(value: object) -> object:
        if value not in allowed:
            raise ValueError(f"{value!r} is unknown; use one of: {', '.join(allowed)}")
        return value

    return BeforeValidator(check)


def _check_phrase(value: object) -> object:
    if not isinstance(value, str) or _PHRASE.fullmatch(value) is None:
        raise ValueError(f"{value!r} is no phrase; write lower-case words without digits, and (a|b) for either")
    return value


def _check_joint(value: object) -> object:
    if not isinstance(value, str) or len(value.split(" + ")) != 2:
        raise ValueError(f'{value!r} joins nothing; write "GROUP + GROUP"')
    return value


Phrases = tuple[Annotated[str, BeforeValidator(_check_phrase)], ...]
_Joints = tuple[Annotated[str, BeforeValidator(_check_joint)], ...]
_Place = Annotated[str, _one_of(*_PLACES)]


class Row(BaseModel):
    """One ``[finding.NAME]``; concept_map.toml says what the keys mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phrases: Phrases = ()
    joined: _Joints = ()
    doubtful: _Joints = ()
    denied: _Joints = ()
    disease: Annotated[str, _one_of(*DISEASES, NONE)] = NONE
    incidental: bool = False
    suggests: bool = False
    via: str | None = Field(None, min_length=1)
    region: Annotated[str, _one_of(*_PLACES, NONE)] = NONE


class Source(BaseModel):
    """A table file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(min_length=1, max_length=40)
    extends: Literal["shipped"] | None = None
    examination: Phrases = ()
    finding: dict[str, Row] = {}
    group: dict[str, Phrases] = {}
    cue: dict[str, Phrases] = {}
    place: dict[_Place, Phrases] = {}
    side: dict[Annotated[str, _one_of("left", "right", "both")], Phrases] = {}
    reference: dict[str, tuple[str, ...]] = {}


def shipped_text() -> str:
    """concept_map.toml as it is written."""
    return (importlib.resources.files("boxmed_ray.data") / "concept_map.toml").read_text(encoding="utf-8")


def read_source(text: str, where: str) -> Source:
    """A table from its text, laid over the shipped one if it extends that: lists are joined, other values replaced.

    Raises:
        DataError: names file, line and remedy of everything that a table cannot say.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{where}: not TOML: {error}; see docs/data.md for the form of a table") from error
    try:
        source = Source.model_validate(values)
    except ValidationError as error:
        raise DataError("\n".join(_explain(text, where, problem) for problem in error.errors())) from error
    if source.extends:
        source = Source.model_validate(_merged(tomllib.loads(shipped_text()), values))
    _check_names(source, text, where)
    return source


def compile_phrases(source: Source) -> labeller.Table:
    """Findings, groups and cues of the labeller's table and of ``source``, for ``rewards.text.labels.mentions``."""
    rows = {name: row.model_dump(include={"phrases", *_JOINTS}) for name, row in source.finding.items()}
    words = {"finding": rows, "group": source.group, "cue": source.cue}
    return labeller.compile_table(_merged({"finding": {}, "group": {}, "cue": {}}, labeller.shipped_source(), words))


def compile_marks(source: Source) -> labeller.Table:
    """Words that tell where, on which side or of the examination: groups ``place …``, ``side …``, ``examination``."""
    groups = {f"place {name}": words for name, words in source.place.items()}
    groups |= {f"side {name}": words for name, words in source.side.items()}
    return labeller.compile_table({"finding": {}, "group": groups | {"examination": source.examination}, "cue": {}})


def _merged(base: Mapping[str, Any], *more: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for layer in more:
        for key, value in layer.items():
            held = out.get(key)
            if isinstance(held, Mapping) and isinstance(value, Mapping):
                out[key] = _merged(held, value)
            elif isinstance(held, list | tuple) and isinstance(value, list | tuple):
                out[key] = [*held, *value]
            else:
                out[key] = value
    return out


def _check_names(source: Source, text: str, where: str) -> None:
    """That joints name groups, and reference labels findings, which there are."""
    base = labeller.shipped_source()
    groups, findings = {*base["group"], *source.group}, {*base["finding"], *source.finding}
    if not source.finding:
        raise DataError(f'{where}:1: has no [finding.…]; add some, or extends = "shipped"')
    for name in source.cue.keys() - base["cue"].keys():
        line = _line_of(text, ["cue", name])
        raise DataError(f"{where}:{line}: cue.{name}: is no cue; use one of: {', '.join(base['cue'])}")
    for name, row in source.finding.items():
        for key in _JOINTS:
            for joint in getattr(row, key):
                if unknown := set(joint.split(" + ")) - groups:
                    line = _line_of(text, ["finding", name, key], joint)
                    raise DataError(
                        f"{where}:{line}: finding.{name}.{key}: {min(unknown)!r} is no group; add it under [group] "
                        f"or use one of: {', '.join(sorted(groups))}"
                    )
    for label, names in source.reference.items():
        if unknown := set(names) - findings:
            line = _line_of(text, ["reference", label])
            raise DataError(
                f"{where}:{line}: reference.{label}: {min(unknown)!r} is no finding; add [finding.…] for it"
            )


def _explain(text: str, where: str, problem: Any) -> str:
    """One of pydantic's problems as ``file:line: key: what, remedy``."""
    named = [str(part) for part in problem["loc"] if isinstance(part, str) and part != "[key]"]
    what, given = problem["msg"], None
    if problem["type"] == "value_error":
        what, given = str(problem["ctx"]["error"]), problem["input"]
    elif problem["type"] == "extra_forbidden":
        fields = Row.model_fields if len(named) > 1 else Source.model_fields
        what = f"is no key of a table; use one of: {', '.join(fields)}"
    elif problem["type"] == "tuple_type":
        what = 'is no list; write ["…", "…"]'
    elif problem["type"] == "missing":
        what = 'is missing; add e.g. version = "mine-1", and raise it whenever a line changes'
    return f"{where}:{_line_of(text, named, given)}: {'.'.join(named)}: {what}"


def _line_of(text: str, named: Sequence[str], given: object = None) -> int:
    """The line of a key path: its header, in that section its key, after that the value; as far as they are there."""
    lines = text.splitlines()

    def after(start: int, pattern: str) -> int | None:
        return next((i for i in range(start, len(lines)) if re.search(pattern, lines[i])), None)

    at, rest = 0, list(named)
    for depth in (2, 1):
        parts = [rf"[\"']?{re.escape(part)}[\"']?" for part in named[:depth]]
        header = after(0, rf"^\s*\[{r'.'.join(parts)}\]")
        if header is not None:
            at, rest = header, list(named[depth:])
            break
    for part in rest:
        found = after(at, rf"^\s*[\"']?{re.escape(part)}[\"']?\s*=")
        at = at if found is None else found
    if isinstance(given, str):
        found = after(at, re.escape(given))
        at = at if found is None else found
    return at + 1
