"""Checkpoints: whole or not there, damage seen, the one before used, generators restored."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from boxmed_ray.checkpoint import CheckpointError, CheckpointStore, read_checkpoint, restore_rng, rng_state


def write(content: str):
    return lambda folder: (folder / "weights.bin").write_text(content) and None


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def test_what_was_saved_comes_back(store: CheckpointStore) -> None:
    store.save(7, {"position": 224, "weight_version": 7}, write("seven"))
    found = store.latest()
    assert found is not None
    assert (found.step, found.state) == (7, {"position": 224, "weight_version": 7})
    assert (found.folder / "weights.bin").read_text() == "seven"


def test_nothing_saved_is_none_and_not_an_error(store: CheckpointStore) -> None:
    assert store.latest() is None


def test_only_the_newest_are_kept(store: CheckpointStore) -> None:
    for step in (9, 10, 11):
        store.save(step, {}, write(str(step)))
    assert sorted(folder.name for folder in store.folder.iterdir()) == ["step-00000010", "step-00000011"]


def test_saving_a_step_again_replaces_it(store: CheckpointStore) -> None:
    store.save(3, {}, write("first"))
    store.save(3, {}, write("second"))
    found = store.latest()
    assert found is not None
    assert (found.folder / "weights.bin").read_text() == "second"


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "no manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    store: CheckpointStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(1, {}, write("good"))
    last = store.save(2, {}, write("later")).folder
    if damage == "flip":
        (last / "weights.bin").write_text("lateR")
    elif damage == "cut":
        (last / "weights.bin").write_text("lat")
    elif damage == "remove":
        (last / "weights.bin").unlink()
    elif damage == "manifest":
        (last / "manifest.json").write_text("{")
    else:
        (last / "manifest.json").unlink()
    with caplog.at_level(logging.ERROR):
        found = store.latest()
    assert found is not None
    assert found.step == 1
    assert "step-00000002" in caplog.text


def test_when_all_are_damaged_nothing_starts_over_in_silence(store: CheckpointStore) -> None:
    folder = store.save(1, {}, write("x")).folder
    (folder / "weights.bin").write_text("y")
    with pytest.raises(CheckpointError, match=r"no usable checkpoint.*step-00000001"):
        store.latest()


def test_a_writer_that_fails_leaves_what_was_there(store: CheckpointStore) -> None:
    store.save(1, {}, write("good"))

    def fail(folder: Path) -> None:
        (folder / "weights.bin").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save(2, {}, fail)
    assert [folder.name for folder in store.folder.iterdir()] == ["step-00000001"]


def test_a_killed_writer_leaves_nothing_that_counts(store: CheckpointStore) -> None:
    store.save(1, {}, write("good"))
    unfinished = store.folder / ".step-00000002.123"
    unfinished.mkdir()
    (unfinished / "weights.bin").write_text("half")
    found = store.latest()
    assert found is not None
    assert found.step == 1


def test_another_format_is_refused(store: CheckpointStore) -> None:
    folder = store.save(1, {}, write("x")).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        read_checkpoint(folder)


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    random.seed(3)
    np.random.seed(4)
    torch.manual_seed(5)
    # Odd draws leave a cached normal deviate in two of the three.
    random.gauss(0, 1), np.random.normal(), torch.rand(3)
    save_file(rng_state(), tmp_path / "rng.safetensors")

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.normal(), np.random.rand(), *torch.randn(3).tolist()]

    expected = draw()
    draw()
    restore_rng(load_file(tmp_path / "rng.safetensors"))
    assert draw() == expected
