"""GEMA-Score: the score by hand, both forms of a reply, and what is unreadable."""

from __future__ import annotations

import json

import pytest

from boxmed_ray.evaluate.gema import ASPECTS, QUESTION, RATINGS, SCHEMA, read_published, read_schema


def reply(counts: dict[str, tuple[int, int, int]], ratings: tuple[object, ...] = (90, 60, 30)) -> str:
    kinds = ("both", "candidate_only", "reference_only")
    aspects = {name: dict(zip(kinds, counts.get(name, (0, 0, 0)), strict=True)) for name in ASPECTS}
    return json.dumps({"explanation": "why"} | aspects | dict(zip(RATINGS, ratings, strict=True)))


def test_the_score_is_the_mean_of_mean_f1_and_mean_rating() -> None:
    verdict = read_schema(reply({"entity": (3, 1, 1), "location": (1, 0, 2)}))
    assert verdict is not None
    assert verdict.f1 == pytest.approx({"entity": 6 / 8, "location": 2 / 4})
    assert verdict.ratings == pytest.approx({"completeness": 0.9, "readability": 0.6, "terminology": 0.3})
    assert verdict.score == pytest.approx(((0.75 + 0.5) / 2 + 0.6) / 2)


def test_two_reports_that_say_nothing_agree() -> None:
    verdict = read_schema(reply({}, (100, 100, 100)))
    assert verdict is not None
    assert (verdict.f1, verdict.score) == ({}, 1.0)


@pytest.mark.parametrize("ratings", [(101, 0, 0), (-1, 0, 0), ("90", 0, 0), (True, 0, 0), (None, 0, 0)])
def test_a_rating_outside_its_range_makes_a_reply_unreadable(ratings: tuple[object, ...]) -> None:
    assert read_schema(reply({}, ratings)) is None


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "fine", '{"entity": 3}'])
def test_a_reply_that_is_not_of_the_form_is_unreadable(text: str | None) -> None:
    assert read_schema(text) is None
    assert read_published(text) is None


def test_the_distilled_judges_json_is_read_bare_quoted_and_with_words_around_it() -> None:
    row = {"entity_name omission": 1, "entity_name omission_explanation": "effusion", "completeness_score": 0.8,
           "readability_score": 7, "weighted_final_score": 0.56}  # fmt: skip
    bare = json.dumps(row)
    for text in (bare, "Here: " + bare + " done", json.dumps(bare), "```json\n" + bare + "\n```"):
        verdict = read_published(text)
        assert verdict is not None
        assert verdict.score == 0.56
        assert verdict.ratings == {"completeness": 0.8}
        assert verdict.explanation == "effusion"
    assert read_published(json.dumps(row | {"weighted_final_score": 56})) is None


def test_the_schema_asks_for_what_is_read_and_the_question_names_it() -> None:
    assert SCHEMA["required"] == ["explanation", *ASPECTS, *RATINGS]
    assert QUESTION.count("{reference}") == QUESTION.count("{candidate}") == 1
    assert all(name in QUESTION for name in (*ASPECTS, *RATINGS, "candidate_only"))
