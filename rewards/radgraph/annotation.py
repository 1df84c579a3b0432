"""What RadGraph says about a report: entities and the relations between them.

What lives here: the types, and their form in a cache file. What does not: finding them (model.py), comparing them
(f1.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple


class Relation(NamedTuple):
    """From the entity that holds it to another (or the same) entity of the annotation.

    Attributes:
        label: suggestive_of, located_at or modify.
        target: index into ``Annotation.entities``.
    """

    label: str
    target: int


@dataclass(frozen=True, slots=True)
class Entity:
    """A run of words with a label.

    Attributes:
        tokens: the words as they stand in the report, joined by blanks.
        label: of the archive's own set: ``ANAT-DP``, ``OBS-DP``, ``OBS-U``, ``OBS-DA`` for the original model.
        start: index of the first word.
        end: index of the last word, inclusive.
        relations: those that start here, by target.
    """

    tokens: str
    label: str
    start: int
    end: int
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True, slots=True)
class Annotation:
    """Entities in the order of their first word, shorter ones first; empty where a text holds none."""

    entities: tuple[Entity, ...] = ()

    def to_json(self) -> str:
        """One line of JSON."""
        rows = [[entity.tokens, entity.label, entity.start, entity.end, entity.relations] for entity in self.entities]
        return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Annotation:
        """What ``to_json`` wrote."""
        return Annotation(
            tuple(
                Entity(tokens, label, start, end, tuple(Relation(*relation) for relation in relations))
                for tokens, label, start, end, relations in json.loads(text)
            )
        )
