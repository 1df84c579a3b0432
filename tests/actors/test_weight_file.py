"""The file of a push, read back by safetensors itself."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from boxmed_ray.actors import weight_file
from boxmed_ray.actors.weight_file import (
    TensorSpec,
    WeightFile,
    WeightFileError,
    WeightFiles,
    choose_directory,
    remove_stale,
)

TENSORS = {
    "a.weight": torch.randn(3, 5),
    "a.bias": torch.randn(5, dtype=torch.float64).to(torch.bfloat16),
    "scale": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "transposed": torch.randn(4, 2).t(),
}
SPECS = [TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()]


def written(
    directory: Path,
    version: int,
    specs: list[TensorSpec] = SPECS,
    tensors: Iterable[tuple[str, torch.Tensor]] | None = None,
) -> WeightFile:
    """A new file with one version, given in one bucket."""
    file = WeightFile(directory, specs)
    file.write(version, [TENSORS.items() if tensors is None else tensors])
    return file


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    file = written(tmp_path, 7)
    with safe_open(file.path, "pt") as stored:
        assert set(stored.keys()) == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert stored.get_tensor(name).dtype == tensor.dtype
            assert torch.equal(stored.get_tensor(name), tensor)
    read = WeightFiles().open(file.path)
    assert (read.version, read.specs) == (7, SPECS)
    assert all(torch.equal(spec.view(data), TENSORS[spec.name]) for spec, data in read)
    assert file.nbytes == file.path.stat().st_size


def test_tensors_are_cast_to_the_announced_type(tmp_path: Path) -> None:
    specs = [TensorSpec("w", torch.bfloat16, (3,))]
    file = written(tmp_path, 1, specs, [("w", torch.tensor([1.0, 2.0, 3.5]))])
    with safe_open(file.path, "pt") as stored:
        assert stored.get_tensor("w").tolist() == [1.0, 2.0, 3.5]
        assert stored.get_tensor("w").dtype == torch.bfloat16


def test_only_its_owner_may_read_it_and_it_has_its_name_only_when_whole(tmp_path: Path) -> None:
    seen: list[str] = []

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for pair in TENSORS.items():
            seen.extend(path.suffix for path in tmp_path.iterdir())
            yield pair

    file = written(tmp_path, 1, SPECS, tensors())
    assert set(seen) == {".part"}
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.remove()
    file.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (list(TENSORS.items())[:-1], "announced transposed .* and gave nothing more"),
        ([*TENSORS.items(), ("more", torch.zeros(1))], r"announced nothing more and gave more \(1,\)"),
        ([("a.weight", torch.zeros(5, 3))], r"announced a.weight \(3, 5\) and gave a.weight \(5, 3\)"),
        ([("other", torch.zeros(3, 5))], "gave other"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused_and_leaves_no_file(
    tmp_path: Path, given: list[tuple[str, torch.Tensor]], message: str
) -> None:
    with pytest.raises(WeightFileError, match=message):
        written(tmp_path, 1, SPECS, given)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_in_numbers_and_the_fallback_is_used(tmp_path: Path) -> None:
    enormous = 1 << 60
    with pytest.raises(WeightFileError, match=r"needs .* MiB of shared memory, but .* MiB free.*--shm-size"):
        choose_directory(enormous, tmp_path)
    absent = tmp_path / "absent"
    assert choose_directory(1, absent, fallback=tmp_path) == tmp_path
    with pytest.raises(WeightFileError, match=r"absent is not a directory"):
        choose_directory(1, absent)


def test_absent_and_foreign_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(WeightFileError, match=r"cannot be opened here .*No such file.* one host"):
        WeightFiles().open(tmp_path / "gone.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(WeightFileError, match="is not a weight file"):
        WeightFiles().open(foreign)


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if child == 0:
        written(tmp_path, 1)
        os._exit(9)  # as a killed process ends: nothing is cleaned up
    os.waitpid(child, 0)
    (orphan,) = tmp_path.iterdir()
    living = written(tmp_path, 2)
    assert remove_stale(tmp_path) == []  # too young to judge
    monkeypatch.setattr(weight_file, "_STALE_AFTER_S", -1.0)
    time.sleep(0.01)
    assert remove_stale(tmp_path) == [orphan]
    assert [path.name for path in tmp_path.iterdir()] == [living.path.name]


def test_a_later_version_is_written_over_the_same_file_under_another_name(tmp_path: Path) -> None:
    file, files = written(tmp_path, 1), WeightFiles()
    files.open(file.path).close()
    inode = file.path.stat().st_ino
    later = {name: tensor + 1 for name, tensor in TENSORS.items()}
    assert file.claim()
    file.write(999_999, [later.items()])
    (path,) = tmp_path.iterdir()
    assert (path, path.stat().st_ino) == (file.path, inode)
    assert path.name.endswith("-v999999.safetensors")
    read = files.open(path)
    assert read.version == 999_999
    assert all(torch.equal(spec.view(data), later[spec.name]) for spec, data in read)


def test_what_somebody_reads_is_not_written_over(tmp_path: Path) -> None:
    file = written(tmp_path, 1)
    read = WeightFiles().open(file.path)
    assert not file.claim()
    file.remove()
    assert all(torch.equal(spec.view(data), TENSORS[spec.name]) for spec, data in read)  # its own until it closes it
    again = written(tmp_path, 2)
    WeightFiles().open(again.path).close()
    assert again.claim()
    (part,) = tmp_path.iterdir()
    with pytest.raises(WeightFileError, match="is being written over with a later version"):
        WeightFiles().open(part)


def test_mappings_are_kept_for_two_files_and_no_more(tmp_path: Path) -> None:
    files, written_files = WeightFiles(), [written(tmp_path, version) for version in range(4)]
    for file in written_files:
        files.open(file.path).close()
    kept = {inode for _, inode in files._mapped}
    assert kept == {file.path.stat().st_ino for file in written_files[2:]}


def test_a_directory_without_room_is_an_error_of_ours_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightFileError, match="failed"):
        WeightFile(tmp_path, [TensorSpec("w", torch.float32, (1 << 48,))])
    assert list(tmp_path.iterdir()) == []
