"""A data set built in shards: what is written, and what a build that was killed does again."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from boxmed_ray.data import shards
from boxmed_ray.data.readers import Item, Located, SkippedStudy
from boxmed_ray.data.readers.manifest import read_manifest
from boxmed_ray.data.shards import Plan, Size, build_shard, find_built, finish, make_plan
from boxmed_ray.data.study import Box, DataError, Study
from tests.data.conftest import make_study

HALF = Size(scale=0.5)


def items(folder: Path, count: int = 5) -> list[Item]:
    return [Located(make_study(folder, f"s{number}"), f"row {number}") for number in range(count)]


def built(source: Sequence[Item], target: Path, size: Size = HALF) -> Plan:
    plan = make_plan(source, target, size, shard_studies=2)
    for shard in plan.shards:
        if not shard.done():
            build_shard(shard)
    finish(plan, {"kind": "made-up"})
    return plan


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def studies(target: Path) -> list[Study]:
    read = list(read_manifest(target / "manifest.parquet"))
    assert all(isinstance(item, Located) for item in read)
    return [item.study for item in read if isinstance(item, Located)]


def test_images_and_boxes_shrink_together_and_words_stay(tmp_path: Path) -> None:
    built(items(tmp_path), tmp_path / "to")
    first = studies(tmp_path / "to")[0]
    assert Image.open(first.image).size == (first.width, first.height) == (32, 32)
    assert first.findings[0].boxes == (Box(20, 4, 28, 12),)
    assert (first.id, first.report, first.findings[0].phrase) == ("s0", "Nodule.", "Nodule.")
    assert [study.id for study in studies(tmp_path / "to")] == [f"s{number}" for number in range(5)]


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    source = items(tmp_path)
    built(source, tmp_path / "to")
    for before, item in zip(source, read_manifest(tmp_path / "to/manifest.parquet"), strict=True):
        assert isinstance(before, Located)
        assert isinstance(item, Located)
        assert item.hashes is not None
        assert item.hashes.sha256 == hashlib.sha256(item.study.image.read_bytes()).hexdigest()
        assert item.hashes.source_sha256 == hashlib.sha256(before.study.image.read_bytes()).hexdigest()


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_build_that_was_killed_goes_on_and_leaves_the_same_bytes(tmp_path: Path, done: int) -> None:
    source = items(tmp_path)
    built(source, tmp_path / "whole")
    plan = make_plan(source, tmp_path / "to", HALF, shard_studies=2)
    for shard in plan.shards[:done]:
        build_shard(shard)
    killed = plan.shards[done]
    killed.images.mkdir(parents=True)
    (killed.images / "half-written.png").write_bytes(b"\x89PNG")
    tables = [shard.table.stat().st_mtime_ns for shard in plan.shards[:done]]
    again = make_plan(source, tmp_path / "to", HALF, shard_studies=2)
    assert [shard.done() for shard in again.shards] == [number < done for number in range(3)]
    assert tables == [shard.table.stat().st_mtime_ns for shard in again.shards[:done]]
    built(source, tmp_path / "to")
    assert files(tmp_path / "to") == files(tmp_path / "whole")


def test_a_shard_is_made_again_when_its_image_options_or_words_are_others(tmp_path: Path) -> None:
    source = items(tmp_path)
    for shard in make_plan(source, tmp_path / "to", HALF, 2).shards:
        build_shard(shard)
    assert not any(shard.done() for shard in make_plan(source, tmp_path / "to", Size(max_pixels=50), 2).shards)
    Image.new("L", (64, 64)).save(tmp_path / "images/s2.png")
    assert [shard.done() for shard in make_plan(source, tmp_path / "to", HALF, 2).shards] == [True, False, True]
    source[0] = Located(make_study(tmp_path, "s0", report="Other."), "row 0")
    assert not make_plan(source, tmp_path / "to", HALF, 2).shards[0].done()


def test_a_finished_build_is_known_and_another_one_is_refused(tmp_path: Path) -> None:
    source = items(tmp_path)
    built(source, tmp_path / "to")
    before = files(tmp_path / "to")
    assert find_built(make_plan(source, tmp_path / "to", HALF, 2)) == (5, 0)
    assert files(tmp_path / "to") == before
    with pytest.raises(DataError, match=r"built from something else.*--to"):
        find_built(make_plan(source[:3], tmp_path / "to", HALF, 2))


def test_images_that_cannot_be_read_and_ids_that_occur_twice_are_listed(tmp_path: Path) -> None:
    source = items(tmp_path)
    (tmp_path / "images/s1.png").write_bytes(b"not an image")
    built([*source, source[0], SkippedStudy("s9", "by rule", by_rule=True)], tmp_path / "to")
    assert [study.id for study in studies(tmp_path / "to")] == ["s0", "s2", "s3", "s4"]
    listed = [json.loads(line) for line in (tmp_path / "to/skipped.jsonl").read_text().splitlines()]
    assert [(problem["id"], problem["by_rule"]) for problem in listed] == [("s0", False), ("s9", True), ("s1", False)]
    assert "row 1" in listed[2]["reason"]
    assert "s1.png" in listed[2]["reason"]


def test_a_patient_in_two_splits_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    first = Located(make_study(tmp_path, "a", patient_id="p"), "row 1")
    second = Located(make_study(tmp_path, "b", patient_id="p", split="test"), "row 2")
    with pytest.raises(DataError, match=r"row 2.*'p'.*one split"):
        make_plan([first, second], tmp_path / "to", HALF, 2)


def test_a_full_disk_is_no_bad_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (shard,) = make_plan(items(tmp_path, 2), tmp_path / "to", HALF, 2).shards
    monkeypatch.setattr(shards, "shrink_opened", full)
    with pytest.raises(OSError, match="No space"):
        build_shard(shard)
    assert not shard.done()
