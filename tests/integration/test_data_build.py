"""`boxmed data build` on Ray Data as users meet it: killed and run again, into a target that cannot be used."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from boxmed_ray.data.phantom import make_phantom
from boxmed_ray.data.readers import Located
from boxmed_ray.data.readers.manifest import read_manifest, write_manifest
from boxmed_ray.data.shards import WORK, Size
from boxmed_ray.data.study import DataError, Study
from boxmed_ray.stages.build import build

STUDIES, SHARD = 96, 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    splits = ["test" if number % 4 == 0 else "train" for number in range(STUDIES)]
    studies = [make_phantom(number, 0, split, folder) for number, split in enumerate(splits)]  # type: ignore[arg-type]
    write_manifest(folder / "manifest.jsonl", studies)
    return folder


def run(source: Path, target: Path) -> None:
    items = read_manifest(source / "manifest.jsonl")
    build(items, target, {"kind": "manifest"}, Size(scale=0.5), workers=2, shard_studies=SHARD)


PROGRAM = "from pathlib import Path; from tests.integration.test_data_build import run; run(Path({!r}), Path({!r}))"


def ids(source: Path) -> list[str]:
    return [item.study.id for item in read_manifest(source / "manifest.jsonl") if isinstance(item, Located)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_in_the_middle_it_goes_on_and_leaves_the_same_bytes(source: Path, tmp_path: Path) -> None:
    whole, target = tmp_path / "whole", tmp_path / "killed"
    run(source, whole)
    program = PROGRAM.format(str(source), str(target))
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.getcwd()})
    children: list[psutil.Process] = []
    try:
        while len(done := list((target / WORK).glob("shard-*.parquet"))) < 3:
            assert process.poll() is None, "the build ended before it could be killed"
            time.sleep(0.02)
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        for child in children:
            if child.is_running():
                child.kill()
        process.wait()
        psutil.wait_procs(children, timeout=10)
    assert not (target / "manifest.parquet").exists()
    made = {path.name: path.stat().st_mtime_ns for path in done}
    told: list[tuple[int, int]] = []
    items = read_manifest(source / "manifest.jsonl")
    result = build(
        items, target, {"kind": "manifest"}, Size(scale=0.5), workers=2, shard_studies=SHARD,
        on_progress=lambda count, of: told.append((count, of)),
    )  # fmt: skip
    assert result.found >= len(made)
    assert told[0][0] >= SHARD * len(made)
    assert told[-1] == (STUDIES, STUDIES)
    assert contents(target) == contents(whole)
    read = [item.study for item in read_manifest(target / "manifest.parquet") if isinstance(item, Located)]
    assert [study.id for study in read] == ids(source)
    assert all(isinstance(study, Study) and study.image.is_file() for study in read)


def test_a_target_with_other_files_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"holds other files \(thesis.tex\).*--to"):
        run(source, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_target_that_is_a_file_or_below_one_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=r"cannot be written .*--to"):
            run(source, target)


def test_a_full_disk_is_one_message(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("boxmed_ray.data.shards.Path.write_text", full)
    with pytest.raises(DataError, match=r"No space left on device.*run the same command again"):
        run(source, tmp_path / "to")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_target_that_a_worker_cannot_write_is_one_message(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "to"
    target.mkdir()
    # No folder can be made below a device.
    (target / "images").symlink_to("/dev/full")
    (target / WORK).mkdir()
    with pytest.raises(DataError) as caught:
        run(source, target)
    assert str(target) in str(caught.value)
    assert "run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)
