"""What is expensive to start and shared by several files of tests: a finished run, and a service of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.keys import KeyFile
from tests.integration.serving import Server, serving
from tests.serve.tiny_run import build_run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Whoever changes it, or serves it and changes that, takes a copy."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    build_run(folder)
    return folder


@pytest.fixture(scope="session")
def server(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One service for all tests that leave it as it is: with keys, two adapters and feedback.

    The last tests of test_serve_more.py change it and end it.
    """
    folder = tmp_path_factory.mktemp("served")
    run, second, keys, feedback = (folder / name for name in ("tiny", "second", "keys.json", "feedback"))
    shutil.copytree(tiny_run, run)
    shutil.copytree(run / "stages/adapter/adapter", second)
    key = KeyFile(keys).add("reader", per_minute=100_000)
    options = ("--keys", keys, "--adapter", f"second={second}", "--feedback", feedback, "--feedback-images")
    with serving(run, *options, key=key, keys=keys, feedback=feedback) as server:
        yield server
