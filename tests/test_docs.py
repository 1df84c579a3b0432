"""The handbook: its links lead somewhere, and the commands that it gives exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main

from boxmed_ray.cli import app
from boxmed_ray.config import load_config, recipe_names

REPO = Path(__file__).resolve().parents[1]
PAGES = [*sorted((REPO / "docs").glob("*.md")), REPO / "README.md", REPO / "cluster" / "README.md"]
_PLACEHOLDERS = {"NAME", "mine.yaml"}


def without_blocks(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    text = re.sub(r"`[^`\n]*`", "", without_blocks(page.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            dead.append(target)
    assert not dead


def test_every_page_is_in_the_index() -> None:
    index = (REPO / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (REPO / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index


def commands() -> Iterator[Any]:
    """Lines of shell blocks that call boxmed, and calls between backquotes that have options."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = "".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
        lines = blocks.replace("\\\n", " ").splitlines()
        lines += [call for call in re.findall(r"`([^`\n]+)`", without_blocks(text)) if " --" in call]
        for line in lines:
            if called := re.match(r"(?:\S*/)?boxmed (.*)$", line):
                yield pytest.param(called[1], id=f"{page.name}-{called[1][:40]}")


@pytest.mark.parametrize("line", commands())
def test_documented_commands_and_their_options_exist(line: str) -> None:
    check(shlex.split(line, comments=True))


def check(words: list[str]) -> None:
    """That the command takes these options, and that keys and recipes are ones that there are."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    own = [*words, "--"].index("--")
    taken, behind = words[:own], words[own + 1 :]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word, after in pairwise([*taken, ""]):
        if word.startswith("-"):
            assert word.partition("=")[0] in known | {"--help"}, f"{word} is no option of {command.name}"
        if word == "--recipe" and after in recipe_names():
            load_config(after, [])
        elif word == "--recipe":
            assert after in _PLACEHOLDERS or after.isupper() or "…" in after, after
    if behind:
        check(behind)
