"""A small archive with random weights, in which entities and relations are found, and reports to find them in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks._radgraph_archive import TINY, build_archive
from benchmarks._radgraph_reports import made_up
from rewards.radgraph import RadGraph

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reports() -> list[str]:
    return made_up(60)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, reports: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("archives") / "radgraph"
    build_archive(folder, TINY, reports)
    return folder


@pytest.fixture(scope="session")
def radgraph(archive: Path) -> RadGraph:
    return RadGraph(archive, device="cpu")
