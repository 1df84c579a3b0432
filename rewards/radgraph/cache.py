"""Annotations that have been made, in memory and, where a file is named, on disk.

What lives here: both stores. What does not: what is asked for, and in what order (annotate.py).

Memory is bounded: the text that was not asked for the longest goes first. The file is SQLite, one per model, and
several processes may share it: an annotation depends on text and model alone, so it does not matter whose is kept.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from rewards.radgraph.annotation import Annotation

MAX_TEXTS: Final = 20_000
"""Texts held in memory: some 200 MB of reports."""
_WAIT_SECONDS: Final = 60.0


class AnnotationCache:
    """Text → Annotation.

    Args:
        file: of one model; created when missing, with its folder. None for memory alone.

    Raises:
        ValueError: the file is there and is no such cache.
    """

    def __init__(self, file: Path | None) -> None:
        self._memory: OrderedDict[str, Annotation] = OrderedDict()
        self._disk = None if file is None else _opened(file)

    def get(self, texts: Iterable[str]) -> dict[str, Annotation]:
        """Those of ``texts`` that are known."""
        found: dict[str, Annotation] = {}
        for text in texts:
            if text in self._memory:
                self._memory.move_to_end(text)
                found[text] = self._memory[text]
            elif self._disk is not None:
                row = self._disk.execute("SELECT annotation FROM annotations WHERE text = ?", (_key(text),)).fetchone()
                if row is not None:
                    found[text] = Annotation.from_json(row[0])
                    self._remember(text, found[text])
        return found

    def put(self, made: Mapping[str, Annotation]) -> None:
        """Keep these."""
        for text, annotation in made.items():
            self._remember(text, annotation)
        if self._disk is not None and made:
            rows = [(_key(text), annotation.to_json()) for text, annotation in made.items()]
            with self._disk:
                self._disk.executemany("INSERT OR IGNORE INTO annotations VALUES (?, ?)", rows)

    def _remember(self, text: str, annotation: Annotation) -> None:
        self._memory[text] = annotation
        if len(self._memory) > MAX_TEXTS:
            self._memory.popitem(last=False)


def _opened(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    disk = sqlite3.connect(file, timeout=_WAIT_SECONDS)
    try:
        with disk:
            disk.execute(
                "CREATE TABLE IF NOT EXISTS annotations (text BLOB PRIMARY KEY, annotation TEXT NOT NULL) WITHOUT ROWID"
            )
    except sqlite3.DatabaseError as error:
        raise ValueError(f"the cache {file} cannot be used: {error}; delete it or name another folder") from error
    return disk


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
