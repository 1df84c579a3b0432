"""The phrase table of the labeller, as a tree that finds the longest phrase at a word.

What lives here: reading phrases.toml and finding its phrases in a text. What does not: what phrases mean to each
other in a sentence (labels.py).
"""

from __future__ import annotations

import importlib.resources
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

Joint = tuple[str, str]
"""A finding and the key of the table that joins it: ``joined``, ``doubtful`` or ``denied``."""

SENTENCE_END: Final = "sentence end"
_TOKEN = re.compile(r"[a-z]+|[,:;?!\n]|\.(?!\d)")  # the dot of 1.5 ends nothing
_SENTENCE_ENDS = frozenset(";?!\n.")
_ALTERNATIVES = re.compile(r"\(([^)]*)\)")
_JOINTS = ("joined", "doubtful", "denied")
_UNINFLECTED = re.compile(r".{0,3}|.*(?:[^s]s|ing|ed)|[^a-z].*")


@dataclass(slots=True)
class Entry:
    """All that one phrase is in the table."""

    findings: tuple[str, ...] = ()
    subjects: frozenset[str] = frozenset()
    """Groups on the left of a ``+``, and the group ``other``."""
    states: frozenset[str] = frozenset()
    """Groups on the right of a ``+``."""
    cues: frozenset[str] = frozenset()


@dataclass(slots=True)
class Node:
    """Where a sequence of words has led: what it is as a phrase, and which words may follow."""

    children: dict[str, Node] = field(default_factory=dict)
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The phrase table, compiled.

    Attributes:
        root: of the tree of phrases.
        categories: finding → its CheXpert category, or None.
        joints: subject group and state group → what they mean together.
    """

    root: Node
    categories: Mapping[str, str | None]
    joints: Mapping[tuple[str, str], Sequence[Joint]]


@dataclass(frozen=True, slots=True)
class Found:
    """A phrase in a text; ``start`` and ``end`` count tokens."""

    start: int
    end: int
    entry: Entry


@cache
def shipped_table() -> Table:
    """phrases.toml, read once."""
    return compile_table(shipped_source())


def shipped_source() -> dict[str, Any]:
    """phrases.toml as it is written."""
    text = (importlib.resources.files("rewards.text") / "phrases.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def compile_table(source: Mapping[str, Any]) -> Table:
    """A table with the keys ``finding``, ``group`` and ``cue``, as phrases.toml explains them."""
    root = Node()
    joints: dict[tuple[str, str], list[Joint]] = {}
    for name, finding in source["finding"].items():
        for entry in _entries(root, finding["phrases"]):
            entry.findings = (*entry.findings, name)
        for status in _JOINTS:
            for pattern in finding.get(status, ()):
                subject, state = pattern.split(" + ")
                joints.setdefault((subject, state), []).append((name, status))
    states = {state for _, state in joints}
    for name, phrases in source["group"].items():
        for entry in _entries(root, phrases):
            if name in states:
                entry.states |= {name}
            else:
                entry.subjects |= {name}
    for name, phrases in source["cue"].items():
        for entry in _entries(root, phrases):
            entry.cues |= {name}
    return Table(root, {name: finding.get("category") for name, finding in source["finding"].items()}, joints)


def find_phrases(text: str, root: Node) -> list[Found]:
    """Phrases of the table in order, the longest at each place, and the ends of sentences."""
    tokens = _TOKEN.findall(text.lower())
    found = []
    i = 0
    while i < len(tokens):
        if tokens[i] in _SENTENCE_ENDS:
            found.append(Found(i, i + 1, _END))
        elif tokens[i] in root.children:
            entry, end = _longest(tokens, i, root)
            if entry is not None:
                found.append(Found(i, end, entry))
                i = end
                continue
        i += 1
    return found


_END = Entry(cues=frozenset({SENTENCE_END}))


def _longest(tokens: Sequence[str], start: int, root: Node) -> tuple[Entry | None, int]:
    entry, end, node = None, start, root
    for i in range(start, len(tokens)):
        following = node.children.get(tokens[i])
        if following is None:
            break
        node = following
        if node.entry is not None:
            entry, end = node.entry, i + 1
    return entry, end


def _entries(root: Node, phrases: Sequence[str]) -> Iterator[Entry]:
    """Entries of all forms of the phrases, each once; made where the tree has none."""
    entries: dict[int, Entry] = {}
    for words in itertools.chain.from_iterable(map(expand_phrase, phrases)):
        nodes = [root]
        for word in words:
            nodes = [node.children.setdefault(form, Node()) for node in nodes for form in _forms(word)]
        for node in nodes:
            node.entry = node.entry or Entry()
            entries[id(node.entry)] = node.entry
    yield from entries.values()


def expand_phrase(phrase: str) -> Iterator[list[str]]:
    """The words of every form of a phrase with alternatives."""
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(_ALTERNATIVES.split(phrase))]
    for choice in itertools.product(*choices):
        yield "".join(choice).split()


def _forms(word: str) -> tuple[str, ...]:
    """The word and its regular plural."""
    if _UNINFLECTED.fullmatch(word):
        return (word,)
    if word.endswith("y") and word[-2] not in "aeiou":
        return word, word[:-1] + "ies"
    return word, word + ("es" if word.endswith(("ss", "x", "ch", "sh")) else "s")
