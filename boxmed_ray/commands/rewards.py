"""`boxmed rewards`: the RadCliQ of given features, the scores of two files of reports, and which scorers are ready.

What lives here: reading files and printing. What does not: any metric (rewards/).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from boxmed_ray.config import ConfigError, ScorersConfig
from rewards.metrics import METRICS, build_metric
from rewards.radcliq import composite
from rewards.scorers import RESOURCES, MissingScorerError, Paths, locate


def scorer_paths(named: Sequence[str]) -> dict[str, Path]:
    """NAME=PATH options as the configuration would have them.

    Raises:
        ConfigError: another form, or a name that is no scorer's.
    """
    known = list(ScorersConfig.model_fields)
    paths = {}
    for option in named:
        name, equals, path = option.partition("=")
        if not equals or name not in known:
            raise ConfigError(f"--scorer {option}: must be NAME=PATH with NAME one of: {', '.join(known)}")
        paths[name] = Path(path).expanduser()
    return paths


def radcliq(features: str, version: str) -> None:
    """Print RadCliQ of four comma-separated features; the number is the last word.

    Raises:
        ConfigError: not four finite numbers, or an unknown version.
    """
    try:
        value = composite([float(number) for number in features.split(",")], version)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"--features {features} --version {version}: {error}") from error
    print(f"radcliq_{version} {value!r}")


def score(metric: str, refs: Path, hyps: Path, refs_key: str, hyps_key: str, paths: Paths) -> None:
    """Print one score a line, then their mean.

    Raises:
        ConfigError: an unknown metric, a missing scorer, or files that cannot be read or do not pair.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it lists the weights that a scorer leaves out
    references, hypotheses = _reports(refs, refs_key), _reports(hyps, hyps_key)
    if len(references) != len(hypotheses) or not references:
        raise ConfigError(
            f"{refs} has {len(references)} reports and {hyps} has {len(hypotheses)}; they must pair, at least one"
        )
    try:
        scorer = build_metric(metric, paths)
    except ValueError as error:
        raise ConfigError(f"--metric {metric}: {error}") from error
    scores = scorer.score_pairs(references, hypotheses)
    print(f"{scorer.name} of {len(scores)} pairs, {_direction(metric)} is better", file=sys.stderr)
    for value in scores:
        print(f"{value:.6f}")
    print(f"mean {fmean(scores):.6f}")


def check(paths: Paths) -> None:
    """Print a table of metrics and whether each can be loaded, and how to get what is missing."""
    from rich.console import Console
    from rich.table import Table

    found = {name: _find(name, paths) for name in RESOURCES}
    table = Table(box=None, pad_edge=False)
    for column in ("metric", "state", "needs"):
        table.add_column(column)
    for name, metric in METRICS.items():
        ready = all(found[need] is None for need in metric.needs)
        table.add_row(name, "[green]ready[/]" if ready else "[yellow]missing[/]", ", ".join(metric.needs))
    console = Console()
    console.print(table)
    for message in filter(None, found.values()):
        console.print(f"\n{message}", highlight=False, markup=False, soft_wrap=True)


def _find(name: str, paths: Paths) -> str | None:
    try:
        locate(name, paths)
    except MissingScorerError as error:
        return str(error)
    return None


def _direction(metric: str) -> str:
    return "more" if METRICS[metric.replace("-", "_")].sign > 0 else "less"


def _reports(path: Path, key: str) -> list[str]:
    """The reports of a file: one a line, or in a JSON Lines file the strings under ``key``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    lines = text.split("\n")  # a report may hold other line separators of Unicode
    lines = lines[:-1] if not lines[-1] else lines
    if path.suffix != ".jsonl":
        return [line.removesuffix("\r") for line in lines]
    return list(_values(path, lines, key))


def _values(path: Path, lines: list[str], key: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise ConfigError(f"{path}, line {number}: no text under {key!r}; there: {keys}")
        yield row[key]
