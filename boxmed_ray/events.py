"""What happened to a run besides its numbers: ``events.jsonl``.

What lives here: writing and reading events: pools that grow and shrink, workers and prompts that were lost, a
learner that was started afresh. What does not: numbers (tracking.py).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
FILE = "events.jsonl"


class EventWriter:
    """Appends one JSON object a line: time (Unix seconds), event, and what belongs to it; from any thread.

    Args:
        path: of the file; None keeps no record, and the log alone is told.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._lock = path, threading.Lock()

    def write(self, event: str, **facts: Any) -> None:
        """Record an event, and say it in the log."""
        log.info("%s: %s", event, ", ".join(f"{name} {value}" for name, value in facts.items()))
        if self._path is None:
            return
        line = json.dumps({"time": time.time(), "event": event, **facts}) + "\n"
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(line)

    def pool(self, message: str) -> None:
        """An event of a pool, in its own words."""
        self.write("pool", message=message)


def read_events(path: Path) -> list[dict[str, Any]]:
    """All events on record, in order; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
