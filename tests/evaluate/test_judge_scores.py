"""Judges' verdicts as scores of reports: names that tell judges apart, means, and what is unreadable or missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxmed_ray.config import ConfigError, JudgesConfig
from boxmed_ray.evaluate.comparison import compare_samples
from boxmed_ray.evaluate.evaluation import ReportRecord, Samples, figures_of
from boxmed_ray.evaluate.gema import ASPECTS, RATINGS
from boxmed_ray.evaluate.green import ERRORS
from boxmed_ray.evaluate.judge_scores import check_judges, judge_scores
from boxmed_ray.evaluate.report_figures import SCORES, score_kind
from tests.evaluate.endpoint import endpoint

REFERENCES = ("No effusion.", "Left effusion.", "Clear.")
GENERATED = ("No effusion.", "Right effusion.", "Unreadable.")


def verdict(body: dict[str, Any]) -> tuple[int, str, str]:
    """GREEN or GEMA, whichever is asked: one matched finding; a wrong side in "Right"; nonsense on "Unreadable"."""
    question = body["messages"][0]["content"]
    wrong = int("Right" in question)
    if "Unreadable" in question:
        return 200, "no JSON", "stop"
    errors = dict.fromkeys(ERRORS, 0)
    if '"matched"' in question:
        counted = {"significant": errors | {"wrong_location": wrong}, "insignificant": errors, "matched": 1}
        return 200, json.dumps({"explanation": ""} | counted), "stop"
    aspects = {name: {"both": 1, "candidate_only": wrong, "reference_only": 0} for name in ASPECTS}
    return 200, json.dumps({"explanation": ""} | aspects | dict.fromkeys(RATINGS, 80)), "stop"


def judges(url: str, model: str = "judge") -> JudgesConfig:
    judge = {"url": url, "model": model, "retries": 0}
    return JudgesConfig.model_validate({"green": judge, "gema": judge})


def test_scores_carry_their_judge_and_unreadable_verdicts_are_counted_apart(tmp_path: Path) -> None:
    with endpoint(verdict) as served:
        values, missing = judge_scores(REFERENCES, GENERATED, judges(served.url), tmp_path)
    assert missing == {}
    by_kind = {score_kind(name): column for name, column in values.items()}
    assert all("[judge " in name for name in values)
    assert by_kind["green"] == pytest.approx([1, 0.5, np.nan], nan_ok=True)
    assert by_kind["green_wrong_location"] == pytest.approx([0, 1, np.nan], nan_ok=True)
    assert by_kind["green_unreadable"] == by_kind["gema_unreadable"] == [0, 0, 1]
    assert by_kind["gema"] == pytest.approx([0.9, (2 / 3 + 0.8) / 2, np.nan], nan_ok=True)
    assert set(by_kind) <= set(SCORES)


def test_figures_are_means_over_readable_reports_and_fewer_errors_are_better(tmp_path: Path) -> None:
    with endpoint(verdict) as served:
        values, _ = judge_scores(REFERENCES, GENERATED, judges(served.url), tmp_path)
    figures = figures_of(_samples(values))["reports"]
    found = {score_kind(figure.name): (figures.values()[figure.name], figure.sign) for figure in figures.figures}
    assert found["green"] == (0.75, 1)
    assert found["green_wrong_location"] == (0.5, -1)
    assert found["green_unreadable"] == (pytest.approx(1 / 3), -1)


def test_verdicts_of_two_judges_are_never_compared(tmp_path: Path) -> None:
    with endpoint(verdict) as served:
        one, _ = judge_scores(REFERENCES, GENERATED, judges(served.url), tmp_path)
        two, _ = judge_scores(REFERENCES, GENERATED, judges(served.url, "another"), tmp_path)
    same = compare_samples(_samples(one), _samples(one), 5)
    other = compare_samples(_samples(one), _samples(two), 5)
    assert any(difference.name.startswith("green[judge") for difference in same)
    assert not any("[" in difference.name for difference in other)


def test_a_metric_without_a_judge_or_with_one_that_fails_is_missing_and_says_why(tmp_path: Path) -> None:
    values, missing = judge_scores(REFERENCES, GENERATED, JudgesConfig(), tmp_path)
    assert values == {}
    assert "evaluate.judges.green" in missing["green"]
    with endpoint(lambda body: (500, "broken", "")) as served:
        values, missing = judge_scores(REFERENCES, GENERATED, judges(served.url), tmp_path)
    assert values == {}
    assert "500" in missing["green"]


def test_a_judge_that_gives_no_verdict_at_all_is_missing_and_its_share_stands(tmp_path: Path) -> None:
    with endpoint(lambda body: (200, "I cannot help with that.", "stop")) as served:
        values, missing = judge_scores(REFERENCES, GENERATED, judges(served.url), tmp_path)
    assert set(map(score_kind, values)) == {"green_unreadable", "gema_unreadable"}
    assert "judge.jsonl" in missing["green"]
    assert "no reply" in missing["gema"]


def test_judges_are_looked_for_before_anything_is_generated(tmp_path: Path) -> None:
    check_judges(JudgesConfig())
    with pytest.raises(ConfigError, match=r"does not answer"):
        check_judges(judges("http://127.0.0.1:9/v1"))


def test_the_authors_question_and_their_judges_form(tmp_path: Path) -> None:
    path = tmp_path / "question.txt"
    path.write_text("REF {reference} CAND {candidate}")
    text = "[Clinically Significant Errors]:\n(b) Missing: 1. x\n[Matched Findings]:\n3. a; b; c"
    with endpoint(lambda body: (200, text, "stop")) as served:
        judge = {"url": served.url, "model": "judge", "form": "published", "question_file": str(path)}
        config = JudgesConfig.model_validate({"green": judge})
        values, _ = judge_scores(REFERENCES[:1], GENERATED[:1], config, tmp_path)
    [request] = served.requests
    assert request["messages"][0]["content"] == "REF No effusion. CAND No effusion."
    assert "response_format" not in request
    assert next(column for name, column in values.items() if name.startswith("green[")) == [0.75]


def _samples(values: dict[str, list[float]]) -> Samples:
    reports = [
        ReportRecord(f"s{i}", REFERENCES[i], GENERATED[i], {n: v[i] for n, v in values.items() if not np.isnan(v[i])})
        for i in range(len(REFERENCES))
    ]
    return Samples([], reports, {f"report s{i}": "d" for i in range(len(REFERENCES))})
