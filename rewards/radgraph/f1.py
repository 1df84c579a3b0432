"""F1 between the annotations of two reports.

What lives here: RadCliQ's feature and the three levels of the ``radgraph`` package. What does not: annotating.

All of them compare sets, so that a finding said twice counts once, and compare words case-sensitively, but for the
one exception below. A side without entities scores 0, even against another without: so do both sources.

``radcliq``   mean of two F1: of entities as (words, label), and of relations as (entity, entity, label).
              rajpurkarlab/CXR-Report-Metric, CXRMetric/radgraph_evaluate_model.py
``simple``    F1 of entities as (words, label).
``partial``   the same with whether the entity starts any relation.
``complete``  an entity that starts relations stands as one item for each, (words, label, relation, words of the
              target), lower-cased; one that starts none as (words, label), not lower-cased.
              The last three: Delbrouck et al. 2022, as the package radgraph 0.1.18 computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal, get_args

from rewards.radgraph.annotation import Annotation

Level = Literal["radcliq", "simple", "partial", "complete"]
LEVELS: tuple[Level, ...] = get_args(Level)

Items = set[Hashable]


def f1(reference: Annotation, hypothesis: Annotation, level: Level) -> float:
    """Agreement of two annotations in [0, 1].

    Raises:
        ValueError: ``level`` is none of ``LEVELS``.
    """
    if level not in _ITEMS:
        raise ValueError(f"RadGraph F1 has no level {level!r}; use one of: {', '.join(LEVELS)}")
    kinds = _ITEMS[level]
    return sum(_set_f1(items(reference), items(hypothesis)) for items in kinds) / len(kinds)


def _set_f1(reference: Items, hypothesis: Items) -> float:
    sizes = len(reference) + len(hypothesis)
    return 2 * len(reference & hypothesis) / sizes if sizes else 0.0


def _entities(annotation: Annotation) -> Items:
    return {(entity.tokens, entity.label) for entity in annotation.entities}


def _relations(annotation: Annotation) -> Items:
    found: Items = set()
    for entity in annotation.entities:
        for label, index in entity.relations:
            target = annotation.entities[index]
            found.add(((entity.tokens, entity.label), (target.tokens, target.label), label))
    return found


def _entities_by_relation(annotation: Annotation) -> Items:
    return {(entity.tokens, entity.label, bool(entity.relations)) for entity in annotation.entities}


def _entities_with_relations(annotation: Annotation) -> Items:
    found: Items = set()
    for entity in annotation.entities:
        if not entity.relations:
            found.add((entity.tokens, entity.label))
        for label, index in entity.relations:
            target = annotation.entities[index]
            found.add((entity.tokens.lower(), entity.label, label, target.tokens.lower()))
    return found


_ITEMS: dict[Level, tuple[Callable[[Annotation], Items], ...]] = {
    "radcliq": (_entities, _relations),
    "simple": (_entities,),
    "partial": (_entities_by_relation,),
    "complete": (_entities_with_relations,),
}
