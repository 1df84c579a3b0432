"""`boxmed doctor`: print what boxmed_ray.doctor found, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from boxmed_ray.config import load_config
from boxmed_ray.doctor import Check, examine


def doctor(*, as_json: bool, quick: bool, runs_dir: str | None) -> int:
    """Print the report; 1 if something needed is missing, else 0."""
    return _print(examine(runs_dir or "runs", imports=not quick), as_json)


def doctor_of_cluster(
    address: str,
    recipe: str | None,
    overrides: Sequence[str],
    *,
    secrets: tuple[str, ...],
    runs_dir: str | None,
    python: str | None,
    as_json: bool,
) -> int:
    """The same of a cluster, for a recipe where one is named.

    Raises:
        ConfigError: the cluster cannot be reached, or runs nothing of ours; or the recipe is wrong.
    """
    from boxmed_ray.submit import Submission, connect, dashboard_url, examine_cluster

    config = None if recipe is None else load_config(recipe, overrides)
    url = dashboard_url(address)
    submission = Submission((), address, runs_dir=runs_dir, python=python, secrets=secrets)
    return _print(examine_cluster(connect(url), url, submission, config), as_json)


def _print(checks: list[Check], as_json: bool) -> int:
    healthy = all(check.state != "fail" for check in checks)
    if as_json:
        print(json.dumps({"healthy": healthy, "checks": [check.as_dict() for check in checks]}, indent=2))
    else:
        _print_table(checks)
    return 0 if healthy else 1


def _print_table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, pad_edge=False)
    for column in ("what", "state", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, f"[{colours[check.state]}]{check.state}[/]", check.found, check.remedy)
    Console().print(table)
