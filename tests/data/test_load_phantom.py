from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from boxmed_ray.config import DataConfig
from boxmed_ray.data import phantom
from boxmed_ray.data.load import Dataset, load_studies
from boxmed_ray.data.study import Study


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds phantoms were drawn for; drawing happens in this process, which is quicker for a dozen."""
    seeds: list[int] = []

    def draw(train: int, test: int, seed: int, folder: Path) -> list[Study]:
        seeds.append(seed)
        folder.mkdir(parents=True, exist_ok=True)
        return [
            *(phantom.make_phantom(i, seed, "train", folder) for i in range(train)),
            *(phantom.make_phantom(i, seed, "test", folder) for i in range(test)),
        ]

    monkeypatch.setattr(phantom, "generate_phantoms", draw)
    return seeds


def _load(folder: Path, seed: int = 0) -> Dataset:
    return load_studies(DataConfig(train_studies=8, test_studies=4), seed, folder)


def test_phantoms_are_studies_like_others(drawn: list[int], tmp_path: Path, load: Callable[..., Dataset]) -> None:
    dataset = _load(tmp_path / "run")
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (8, 4)
    assert dataset.images.load(dataset.studies[0]).size == (112, 112)
    assert load("manifest", tmp_path / "run", image_size=112).studies == dataset.studies


def test_phantoms_are_drawn_once_for_a_run(drawn: list[int], tmp_path: Path) -> None:
    first = _load(tmp_path)
    again = _load(tmp_path)
    assert drawn == [0]
    assert (again.studies, again.hash) == (first.studies, first.hash)


def test_another_seed_or_a_lost_image_draws_them_anew(drawn: list[int], tmp_path: Path) -> None:
    first = _load(tmp_path)
    assert _load(tmp_path, seed=1).hash != first.hash
    restored = _load(tmp_path)
    restored.studies[0].image.unlink()
    assert _load(tmp_path).hash == first.hash
    assert drawn == [0, 1, 0, 0]
