"""What the watch of a run saw, for its page: alarms, and each quantity at the start and at the end.

What lives here: reading watch.jsonl and the alarms among the events. What does not: measuring and ringing
(stages/cheating.py), the page (report_page.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from boxmed_ray.events import FILE as EVENTS
from boxmed_ray.events import read_events
from boxmed_ray.tracking import read_metrics

FILE, STAGE, ALARM, HELD_OUT = "watch.jsonl", "watch_", "alarm", "held_out."
LAST = 3
"""Measurements whose mean stands for the end."""
_HABITS = {
    "characters": "characters of a response",
    "distinct": "share of distinct responses",
    "copied": "share said word for word about another study too",
    "boxes": "boxes of a response",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity: of the starting model, and the mean of the last measurements."""

    name: str
    kind: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Watched:
    """Of one task: how often it was measured, and the quantities."""

    task: str
    measurements: int
    rows: tuple[Row, ...]


def read_watched(folder: Path) -> list[Watched]:
    """Every task that the watch of the run in ``folder`` measured."""
    lines = read_metrics(folder / FILE) if (folder / FILE).is_file() else []
    tasks: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        tasks.setdefault(line["stage"].removeprefix(STAGE), []).append(line)
    return [Watched(task, len(own), tuple(_rows(own))) for task, own in tasks.items()]


def read_alarms(folder: Path) -> list[dict[str, Any]]:
    """The alarms of the run in ``folder``: step, task, rule and message of each, each once.

    An update that was done again, after a learner was lost, may ring again.
    """
    alarms = [event for event in read_events(folder / EVENTS) if event["event"] == ALARM]
    return list({(alarm["task"], alarm["rule"], alarm["step"]): alarm for alarm in alarms}.values())


def _rows(lines: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for name in lines[0]:
        values = [line[name] for line in lines if line.get(name) is not None]
        kind = "rewarded" if name == "reward" else "habit" if name in _HABITS else "not rewarded"
        if (kind != "not rewarded" or name.startswith(HELD_OUT)) and values:
            shown = _HABITS.get(name, name.removeprefix(HELD_OUT))
            rows.append(Row(shown, kind, values[0], fmean(values[-LAST:])))
    return rows
