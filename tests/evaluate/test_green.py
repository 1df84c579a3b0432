"""GREEN: the formula by hand, both forms of a reply, and what is unreadable."""

from __future__ import annotations

import json

import pytest

from boxmed_ray.evaluate.green import ERRORS, QUESTION, SCHEMA, read_published, read_schema

NONE = dict.fromkeys(ERRORS, 0)
PUBLISHED = """
[Explanation]:
    The candidate misses an effusion and puts the nodule on the wrong side.

    [Clinically Significant Errors]:
    (a) False report of a finding in the candidate: 0.
    (b) Missing a finding present in the reference: 1. Left pleural effusion
    (c) Misidentification of a finding's anatomic location/position: 2. Nodule; line
    (d) Misassessment of the severity of a finding: 0.
    (e) Mentioning a comparison that isn't in the reference: 0.
    (f) Omitting a comparison detailing a change from a prior study: 0.

    [Clinically Insignificant Errors]:
    (a) False report of a finding in the candidate: 4. Degenerative changes

    [Matched Findings]:
    5. No pneumothorax; normal heart; clear right lung; line; sternotomy
"""


def reply(matched: object = 3, **significant: object) -> str:
    return json.dumps(
        {"explanation": "why", "significant": NONE | significant, "insignificant": NONE, "matched": matched}
    )


def test_green_is_matched_findings_over_them_and_significant_errors() -> None:
    verdict = read_schema(reply(3, wrong_location=1))
    assert verdict is not None
    assert verdict.score == pytest.approx(3 / 4)
    assert verdict.explanation == "why"
    assert [read_schema(reply(n, **e)).score for n, e in ((0, {}), (0, {"false_finding": 2}), (4, {}))] == [0, 0, 1]  # type: ignore[union-attr]


def test_insignificant_errors_take_nothing_off() -> None:
    rows = json.loads(reply(2))
    rows["insignificant"]["wrong_severity"] = 9
    assert read_schema(json.dumps(rows)).score == 1  # type: ignore[union-attr]


def test_the_published_judges_sections_are_read() -> None:
    verdict = read_published(PUBLISHED)
    assert verdict is not None
    assert verdict.significant == NONE | {"missing_finding": 1, "wrong_location": 2}
    assert verdict.insignificant == NONE | {"false_finding": 4}
    assert verdict.matched == 5
    assert verdict.score == pytest.approx(5 / 8)
    assert verdict.explanation.startswith("The candidate misses")


def test_sections_that_say_in_words_that_there_is_nothing_count_nothing() -> None:
    text = "[Explanation]: x\n[Clinically Significant Errors]: No errors.\n[Matched Findings]:\nNo matched findings."
    verdict = read_published(text)
    assert verdict is not None
    assert (verdict.significant, verdict.matched, verdict.score) == (NONE, 0, 0.0)


@pytest.mark.parametrize("text", [None, "", "It is fine.", "[Matched Findings]:\n3. a", "[Explanation]: x"])
def test_a_published_reply_without_its_sections_is_unreadable(text: str | None) -> None:
    assert read_published(text) is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "3",
        reply(-1),
        reply("3"),
        reply(True),
        reply(1.5),
        '{"matched": 3}',
        reply(1, wrong_severity=None),
    ],
)
def test_a_reply_that_is_not_of_the_form_is_unreadable(text: str | None) -> None:
    assert read_schema(text) is None


def test_the_schema_asks_for_what_is_read_and_the_question_names_it() -> None:
    assert list(SCHEMA["properties"]) == SCHEMA["required"]
    assert SCHEMA["properties"]["significant"]["required"] == list(ERRORS)
    assert QUESTION.count("{reference}") == QUESTION.count("{candidate}") == 1
    assert all(name in QUESTION for name in (*ERRORS, *SCHEMA["required"]))
