"""Rows as the text of a CSV file.

What lives here: that, for all that pages and folders offer as CSV. What does not: which rows.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Cells are quoted where they must be; None is an empty one."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def csv_uri(text: str) -> str:
    """A CSV file in a ``data:`` address."""
    return "data:text/csv;base64," + base64.b64encode(text.encode()).decode()
