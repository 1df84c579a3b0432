"""docs/configuration.md is what the models say, and says it of every key."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from boxmed_ray.config import RunConfig

REPO = Path(__file__).resolve().parents[1]
SCRIPT: dict[str, Any] = runpy.run_path(str(REPO / "scripts" / "config_reference.py"))
TEXT = (REPO / "docs" / "configuration.md").read_text(encoding="utf-8")


def leaves(values: dict[str, Any], above: str = "") -> list[str]:
    """Keys that hold a value in a config's own dump."""
    found: list[str] = []
    for name, value in values.items():
        nested = isinstance(value, dict) and name not in {"rewards", "tasks", "task_rewards"}
        found += leaves(value, f"{above}{name}.") if nested else [f"{above}{name}"]
    return found


def test_the_page_is_up_to_date() -> None:
    assert SCRIPT["page"]() == TEXT, "python scripts/config_reference.py writes it anew"


def test_every_key_is_there_once_with_meaning_default_and_range() -> None:
    rows = [line.split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]
    keys = [row[0].strip("| `") for row in rows]
    assert len(keys) == len(set(keys))
    assert set(leaves(RunConfig().model_dump())) <= set(keys)
    for row in rows:
        assert len(row) == 4
        assert all(cell.strip(" |`") for cell in row), row


def test_ranges_are_those_that_are_enforced() -> None:
    assert "| `svr.kl_beta` | Weight of KL" in TEXT
    assert "number, ≥ 0 |" in next(line for line in TEXT.splitlines() if line.startswith("| `svr.kl_beta`"))
    assert "≥ 0, ≤ 1" in next(line for line in TEXT.splitlines() if line.startswith("| `svr.none_share`"))
    assert "`token`, `sequence`" in next(line for line in TEXT.splitlines() if line.startswith("| `svr.ratio`"))
