"""Checkpoints: whole or not there, the newest and the best kept, damage seen, the one before used."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from boxmed_ray.checkpoint import CheckpointError, CheckpointStore, read_checkpoint
from boxmed_ray.model.engine_state import _write


def write(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "weights.bin").write_text(content) and None


def names(store: CheckpointStore) -> list[str]:
    """What is in the folder, hidden files too."""
    return sorted(entry.name for entry in store.folder.iterdir())


def steps(store: CheckpointStore) -> list[int]:
    return [int(name.removeprefix("step-")) for name in names(store) if name.startswith("step-")]


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


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    store = CheckpointStore(tmp_path / "c", keep)
    for step in (9, 10, 11, 12):
        store.save(step, {}, write(str(step)))
    assert steps(store) == [9, 10, 11, 12][-keep:]
    assert store.best() is None


def test_none_at_all_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep = 0"):
        CheckpointStore(tmp_path, 0)


def test_the_best_is_never_dropped_and_is_named_in_the_store(store: CheckpointStore) -> None:
    seen = []
    for step, score in enumerate([0.1, 0.9, 0.3, None, 0.4, float("nan"), 0.95, 0.2]):
        store.save(step, {}, write(str(step)), score)
        best = store.best()
        assert best is not None
        assert json.loads((store.folder / "best.json").read_text())["checkpoint"] == best.folder.name
        seen.append((steps(store), best.step))
    assert seen == [
        ([0], 0), ([0, 1], 1), ([1, 2], 1), ([1, 2, 3], 1), ([1, 3, 4], 1), ([1, 4, 5], 1), ([5, 6], 6), ([6, 7], 6),
    ]  # fmt: skip
    assert json.loads((store.folder / "best.json").read_text()) == {"checkpoint": "step-00000006", "score": 0.95}


def test_of_equal_scores_the_newer_is_the_best(store: CheckpointStore) -> None:
    for step in (1, 2):
        store.save(step, {}, write(str(step)), 0.5)
    best = store.best()
    assert best is not None
    assert best.step == 2


def test_the_best_is_not_what_a_resume_uses(store: CheckpointStore) -> None:
    for step, score in ((1, 0.9), (2, 0.1), (3, 0.1)):
        store.save(step, {}, write(str(step)), score)
    found = store.latest()
    assert found is not None
    assert found.step == 3
    assert steps(store) == [1, 2, 3]


def test_saving_a_step_again_replaces_it(store: CheckpointStore) -> None:
    store.save(3, {}, write("first"))
    store.save(3, {}, write("second"))
    found = store.latest()
    assert found is not None
    assert (found.folder / "weights.bin").read_text() == "second"


def flip(folder: Path) -> None:
    (folder / "weights.bin").write_text("lateR")


def cut(folder: Path) -> None:
    (folder / "weights.bin").write_text("lat")


def remove(folder: Path) -> None:
    (folder / "weights.bin").unlink()


def change_state(folder: Path) -> None:
    (folder / "state.json").write_text('{"position": 1}')


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"")


def other_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1]")


def binary_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


DAMAGES = (
    flip, cut, remove, change_state, break_manifest, empty_manifest, other_manifest, binary_manifest,
    remove_manifest, empty,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    store: CheckpointStore, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store.save(1, {"position": 8}, write("good"))
    damage(store.save(2, {"position": 16}, write("later")).folder)
    with caplog.at_level(logging.ERROR):
        found = store.latest()
    assert found is not None
    assert (found.step, found.state) == (1, {"position": 8})
    assert "DAMAGED CHECKPOINT" in caplog.text
    assert "step-00000002" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_after_damage_a_run_writes_its_course_anew(store: CheckpointStore, damage: Callable[[Path], None]) -> None:
    """What is damaged must not count among those that are kept, or the good ones would be dropped for it."""
    store.save(10, {}, write("good"), score=1.0)
    damage(store.save(20, {}, write("later"), score=2.0).folder)
    assert store.latest() == read_checkpoint(store.folder / "step-00000010")
    store.save(15, {}, write("anew"), score=0.5)
    assert steps(store) == [10, 15]
    best = store.best()
    assert best is not None
    assert best.step == 10


def test_when_all_are_damaged_nothing_starts_over_in_silence(store: CheckpointStore) -> None:
    folder = store.save(1, {}, write("x")).folder
    (folder / "weights.bin").write_text("y")
    with pytest.raises(CheckpointError, match=r"no usable checkpoint.*step-00000001"):
        store.latest()


def test_a_full_disk_is_told_in_one_message_and_leaves_what_was_there(store: CheckpointStore) -> None:
    store.save(1, {}, write("good"), score=1.0)
    before = names(store)

    def fill(folder: Path) -> None:
        (folder / "weights.bin").write_text("half")
        with Path("/dev/full").open("w") as full:  # every write to it finds the disk full
            full.write("x" * 10_000)

    with pytest.raises(CheckpointError) as error:
        store.save(2, {}, fill)
    assert names(store) == before
    for part in ("step 2", str(store.folder), "No space left on device", "step-00000001", "--resume"):
        assert part in str(error.value)
    assert store.latest() == read_checkpoint(store.folder / "step-00000001")


def test_tensors_that_cannot_be_written_fail_as_any_file_does(tmp_path: Path) -> None:
    """A full disk and everything else is an error of its own in safetensors."""
    with pytest.raises(OSError, match="os error 2"):
        _write({"x": torch.zeros(3)}, tmp_path / "absent" / "x.safetensors")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told_in_one_message(store: CheckpointStore) -> None:
    store.save(1, {}, write("good"))
    store.folder.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match=r"step 2 cannot be written.*Permission denied"):
            store.save(2, {}, write("x"))
    finally:
        store.folder.chmod(0o700)
    assert steps(store) == [1]


def test_a_file_where_the_folder_should_be_is_told_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"step 1 cannot be written.*File exists; there is none before it"):
        CheckpointStore(tmp_path / "checkpoints").save(1, {}, write("x"))


def test_a_writer_with_an_error_of_its_own_leaves_what_was_there(store: CheckpointStore) -> None:
    store.save(1, {}, write("good"))

    def fail(folder: Path) -> None:
        (folder / "weights.bin").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(2, {}, fail)
    assert names(store) == ["step-00000001"]


def test_a_killed_writer_leaves_nothing_that_counts_or_stays(store: CheckpointStore) -> None:
    store.save(1, {}, write("good"))
    unfinished = store.folder / ".step-00000002.123"
    unfinished.mkdir()
    (unfinished / "weights.bin").write_text("half")
    found = store.latest()
    assert found is not None
    assert found.step == 1
    store.save(3, {}, write("next"))
    assert names(store) == ["step-00000001", "step-00000003"]


def test_another_format_is_refused(store: CheckpointStore) -> None:
    folder = store.save(1, {}, write("x")).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        read_checkpoint(folder)
