"""Per-report scores by scorers that need weights or data, each where it is ready.

What lives here: which are tried, and the remedy for those that are missing. What does not: the scorers (rewards/) and
the judges (judge_scores.py).
A scorer that is missing is listed as missing; it never becomes a 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from boxmed_ray.config import JudgesConfig
from boxmed_ray.evaluate.judge_scores import judge_scores
from boxmed_ray.evaluate.meteor import meteor
from boxmed_ray.evaluate.meteor_java import NAME as METEOR_15
from boxmed_ray.evaluate.meteor_java import meteor_counts
from rewards.categories import Status
from rewards.metrics import build_metric
from rewards.radcliq import VERSIONS, composite
from rewards.scorers import MissingScorerError, Paths, locate
from rewards.text.bleu import Bleu2

_METRICS: Final = ("clinical_lite", "bertscore", "radgraph", "radgraph_xl")
_FEATURES: Final = ("radgraph", "bertscore", "chexbert_similarity", "bleu_2")
"""Of RadCliQ, in its order."""


@dataclass(slots=True)
class Scores:
    """What scorers make of pairs of reports.

    Attributes:
        values: name → score of each report.
        meteor_counts: of METEOR's program, for each report; None without it.
        labels: CheXbert's labels of the references and of the generated reports; None without it.
        missing: name → why there is no such score, and what to do.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    labels: tuple[list[dict[str, Status]], list[dict[str, Status]]] | None = None
    missing: dict[str, str] = field(default_factory=dict)
    meteor_counts: list[list[float]] | None = None


def score_reports(
    references: Sequence[str], hypotheses: Sequence[str], paths: Paths, judges: JudgesConfig, folder: Path
) -> Scores:
    """Every score whose scorer is ready.

    Args:
        references: one a report.
        hypotheses: the generated reports.
        paths: where scorers lie, of the configuration.
        judges: where judges answer.
        folder: keeps the judges' replies.

    Raises:
        ConfigError: a judge's question file or key is missing.
    """
    scores = Scores()
    scores.values, scores.missing = judge_scores(references, hypotheses, judges, folder)
    metrics: dict[str, Callable[[], list[float]]] = {"meteor": partial(meteor, references, hypotheses)}
    for name in _METRICS:
        metrics[name] = partial(_metric, name, references, hypotheses, paths)
    metrics["chexbert_similarity"] = partial(_chexbert, references, hypotheses, paths, scores)
    for name, compute in metrics.items():
        try:
            scores.values[name] = compute()
        except MissingScorerError as error:
            scores.missing[name] = str(error)
    try:
        scores.meteor_counts = meteor_counts(references, hypotheses)
    except MissingScorerError as error:
        scores.missing[METEOR_15] = str(error)
    _radcliq(scores, Bleu2().score_pairs(references, hypotheses))
    return scores


def _metric(name: str, references: Sequence[str], hypotheses: Sequence[str], paths: Paths) -> list[float]:
    return build_metric(name, paths).score_pairs(references, hypotheses)


def _chexbert(references: Sequence[str], hypotheses: Sequence[str], paths: Paths, scores: Scores) -> list[float]:
    """Similarities, and on the way the labels: one pass gives both."""
    import torch

    from rewards.chexbert import CheXbert

    folder = Path(locate("chexbert", paths))
    try:
        model = CheXbert(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise MissingScorerError(f"chexbert cannot be loaded: {error}") from error
    readings = model.read([*references, *hypotheses])
    first, second = readings[: len(references)], readings[len(references) :]
    scores.labels = [reading.labels for reading in first], [reading.labels for reading in second]
    pairs = zip(first, second, strict=True)
    return [float(torch.cosine_similarity(a.embedding, b.embedding, dim=0)) for a, b in pairs]


def _radcliq(scores: Scores, bleu_2: list[float]) -> None:
    """RadCliQ of the features that are there already: no scorer is loaded twice."""
    features: Mapping[str, list[float]] = {**scores.values, "bleu_2": bleu_2}
    lacking = [name for name in _FEATURES if name not in features]
    for version in VERSIONS:
        name = f"radcliq_{version}"
        if lacking:
            scores.missing[name] = f"{name} needs {', '.join(lacking)}; see there"
        else:
            rows = zip(*(features[feature] for feature in _FEATURES), strict=True)
            scores.values[name] = [composite(row, version) for row in rows]
