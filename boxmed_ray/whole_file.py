"""Text files that are whole or absent, whatever ends the process: written beside and renamed into place."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, text: str) -> Path:
    """Write ``text`` to ``path``, in a folder that exists, and return ``path``; readers see the old file or the new."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    return part.replace(path)
