"""F1 of two annotations worked out by hand, at each level."""

from __future__ import annotations

import pytest

from rewards.radgraph import Annotation, Entity, Relation
from rewards.radgraph.f1 import LEVELS, f1

HEART = Entity("heart", "ANAT-DP", 1, 1)
LARGE = Entity("enlarged", "OBS-DP", 3, 3, (Relation("located_at", 0),))
EDEMA = Entity("edema", "OBS-DA", 6, 6)
REFERENCE = Annotation((HEART, LARGE, EDEMA))


def test_radcliq_is_the_mean_of_entity_and_relation_f1():
    uncertain = Entity("edema", "OBS-U", 6, 6)
    # entities: 2 of 3 and 3 agree; relations: the one of each agrees
    assert f1(REFERENCE, Annotation((HEART, LARGE, uncertain)), "radcliq") == pytest.approx((4 / 6 + 1) / 2)
    other_way = Entity("enlarged", "OBS-DP", 3, 3, (Relation("modify", 0),))
    assert f1(REFERENCE, Annotation((HEART, other_way, EDEMA)), "radcliq") == pytest.approx((1 + 0) / 2)


def test_radcliq_compares_the_labels_of_both_ends_of_a_relation():
    moved = Entity("heart", "OBS-DP", 1, 1)
    assert f1(REFERENCE, Annotation((moved, LARGE, EDEMA)), "radcliq") == pytest.approx((4 / 6 + 0) / 2)


def test_reports_without_relations_reach_half_of_radcliq():
    alone = Annotation((HEART, EDEMA))
    assert f1(alone, alone, "radcliq") == 0.5


def test_simple_looks_at_words_and_label_partial_also_at_whether_a_relation_starts():
    lonely = Annotation((HEART, Entity("enlarged", "OBS-DP", 3, 3), EDEMA))
    assert f1(REFERENCE, lonely, "simple") == 1
    assert f1(REFERENCE, lonely, "partial") == pytest.approx(4 / 6)
    assert f1(REFERENCE, lonely, "complete") == pytest.approx(4 / 6)


def test_complete_counts_an_entity_once_for_each_relation_that_starts_at_it():
    both = Entity("enlarged", "OBS-DP", 3, 3, (Relation("located_at", 0), Relation("modify", 2)))
    assert f1(REFERENCE, Annotation((HEART, both, EDEMA)), "complete") == pytest.approx(6 / 7)


def test_only_complete_ignores_case_and_only_where_there_is_a_relation():
    shouted = Entity("Enlarged", "OBS-DP", 3, 3, (Relation("located_at", 0),))
    hypothesis = Annotation((HEART, shouted, EDEMA))
    assert [f1(REFERENCE, hypothesis, level) for level in ("simple", "partial", "complete")] == [
        pytest.approx(4 / 6), pytest.approx(4 / 6), 1
    ]  # fmt: skip
    assert f1(REFERENCE, Annotation((Entity("Heart", "ANAT-DP", 1, 1), LARGE, EDEMA)), "complete") == pytest.approx(
        4 / 6
    )


def test_said_twice_counts_once():
    assert f1(REFERENCE, Annotation((*REFERENCE.entities, Entity("edema", "OBS-DA", 9, 9))), "simple") == 1


@pytest.mark.parametrize("level", LEVELS)
def test_a_side_without_entities_scores_0(level):
    assert (
        f1(REFERENCE, Annotation(), level)
        == f1(Annotation(), REFERENCE, level)
        == f1(Annotation(), Annotation(), level)
        == 0
    )


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="no level 'strict'; use one of: radcliq, simple, partial, complete"):
        f1(REFERENCE, REFERENCE, "strict")  # type: ignore[arg-type]


def test_an_annotation_survives_its_json():
    assert Annotation.from_json(REFERENCE.to_json()) == REFERENCE
