"""Scores of reports by judges: GREEN and GEMA-Score of each pair, with what they are made of.

What lives here: which scores a judge gives and their names. What does not: asking (judge.py), questions and replies
(green.py, gema.py).

A name carries all that changes the number: ``green[MODEL DIGEST]``, the digest over question, form and cap. Verdicts
of two judges are therefore two figures, and never compared.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from boxmed_ray.config import JudgeConfig, JudgesConfig
from boxmed_ray.evaluate import gema, green
from boxmed_ray.evaluate.judge import FILE, Judge, JudgeError, fill, read_question

Row = Mapping[str, float]

_GREEN: Final = "counted by a judge (docs/evaluation.md), mean over readable reports"
_GEMA: Final = "by a judge (docs/evaluation.md), mean over readable reports"
_UNREADABLE: Final = "share of reports whose verdict is cut off or not of the form, by a judge"

JUDGED: Final[Mapping[str, tuple[str, int]]] = {
    "green": (f"GREEN: matched findings / (they + significant errors), {_GREEN}", 1),
    **{f"green_{name}": (f"significant errors a report: {meaning}; {_GREEN}", -1)
       for name, meaning in green.ERRORS.items()},
    "green_matched": (f"matched findings a report, {_GREEN}", 1),
    "green_unreadable": (_UNREADABLE, -1),
    "gema": (f"GEMA-Score, {_GEMA}", 1),
    **{f"gema_{name}": (f"F1 of {meaning}, {_GEMA}", 1) for name, meaning in gema.ASPECTS.items()},
    **{f"gema_{name}": (f"rating, 0 to 1: {meaning}, {_GEMA}", 1) for name, meaning in gema.RATINGS.items()},
    "gema_unreadable": (_UNREADABLE, -1),
}  # fmt: skip
"""Score before its bracket → its variant, and -1 where less is better."""


def check_judges(judges: JudgesConfig) -> None:
    """Find out before anything is generated that a judge cannot be asked.

    Raises:
        ConfigError: a question file or a key is missing, or an endpoint does not answer or serves other models.
    """
    for config in (judges.green, judges.gema):
        if config is not None:
            read_question(config)
            Judge(config, Path()).check()


def judge_scores(
    references: Sequence[str], hypotheses: Sequence[str], judges: JudgesConfig, folder: Path
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Scores by name, and for metrics without any the reason and the remedy.

    Args:
        references: one a report.
        hypotheses: the generated reports.
        judges: where they are.
        folder: keeps the replies.

    Returns:
        name → value of each report, NaN where the verdict is unreadable or says nothing of it; metric → why not.

    Raises:
        ConfigError: a question file or a key is missing.
    """
    values: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for metric, config, columns in (("green", judges.green, _green), ("gema", judges.gema, _gema)):
        if config is None:
            missing[metric] = f"{metric} needs a judge: set evaluate.judges.{metric} (docs/evaluation.md)"
            continue
        try:
            rows = _verdicts(metric, config, references, hypotheses, folder, columns)
        except JudgeError as error:
            missing[metric] = str(error)
            continue
        if rows and not any(metric in row for row in rows):
            missing[metric] = (
                f"no reply of judge {config.model!r} at {config.url} can be read as a verdict; look at them in "
                f"{folder / FILE}, ask another model or raise max_tokens"
            )
        tag = judge_tag(metric, config)
        names = [name for name in JUDGED if any(name in row for row in rows)]
        values |= {f"{name}[{tag}]": [row.get(name, math.nan) for row in rows] for name in names}
    return values, missing


def judge_tag(metric: str, config: JudgeConfig) -> str:
    """What a score's name carries of its judge."""
    question = read_question(config) or (green if metric == "green" else gema).QUESTION
    digest = hashlib.sha256(json.dumps([question, config.form, config.max_tokens]).encode()).hexdigest()
    return f"{config.model} {digest[:8]}"


def _verdicts(
    metric: str,
    config: JudgeConfig,
    references: Sequence[str],
    hypotheses: Sequence[str],
    folder: Path,
    columns: Callable[[str | None, bool], Row],
) -> list[Row]:
    module = green if metric == "green" else gema
    own = read_question(config)
    questions = [fill(own or module.QUESTION, *pair) for pair in zip(references, hypotheses, strict=True)]
    replies = Judge(config, folder).ask(questions, module.SCHEMA if own is None else None)
    return [columns(reply, own is not None) for reply in replies]


def _green(reply: str | None, published: bool) -> Row:
    verdict = (green.read_published if published else green.read_schema)(reply)
    if verdict is None:
        return {"green_unreadable": 1.0}
    errors = {f"green_{name}": float(count) for name, count in verdict.significant.items()}
    return {"green": verdict.score, "green_matched": float(verdict.matched), "green_unreadable": 0.0} | errors


def _gema(reply: str | None, published: bool) -> Row:
    verdict = (gema.read_published if published else gema.read_schema)(reply)
    if verdict is None:
        return {"gema_unreadable": 1.0}
    parts = {f"gema_{name}": value for name, value in {**verdict.f1, **verdict.ratings}.items()}
    return {"gema": verdict.score, "gema_unreadable": 0.0} | parts
