"""Files on pyarrow's filesystems: whole or not there, and what cannot be used is refused in one message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pyarrow import fs

from boxmed_ray.config import ConfigError
from boxmed_ray.remote import RemoteFolder, _Writer, open_folder, refusing
from tests.remote_cases import KINDS, remote_folder


@pytest.fixture(params=KINDS)
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> RemoteFolder:
    return remote_folder(request.param, tmp_path)


def test_what_is_written_is_read_listed_copied_and_removed(remote: RemoteFolder, tmp_path: Path) -> None:
    assert (remote.read("a/x"), remote.files(), remote.names()) == (None, [], [])
    remote.write("a/x", b"one")
    remote.write("a/x", b"two")
    content = os.urandom(20 << 20)  # more than one part of a multipart upload
    (tmp_path / "big").write_bytes(content)
    inner = remote.folder("a")
    inner.upload(tmp_path / "big", "b/c/big")
    assert remote.read("a/x") == b"two"
    assert (remote.files(), remote.names()) == (["a/b/c/big", "a/x"], ["a"])
    assert (inner.files("b"), inner.names()) == (["b/c/big"], ["b", "x"])
    remote.download("a/b/c/big", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == content
    for _ in range(2):  # what is not there need not be removed
        remote.remove("a/x")
        inner.remove_folder("b")
    assert remote.files() == []


def test_a_write_that_breaks_off_leaves_no_half_file(remote: RemoteFolder) -> None:
    def break_off(path: str) -> None:
        with _Writer(remote, path) as stream:
            stream.write(b"half")
            raise RuntimeError

    remote.write("kept", b"whole")
    for path in ("kept", "new"):
        with pytest.raises(RuntimeError):
            break_off(path)
    if remote._renames:
        assert (remote.files(), remote.read("kept")) == (["kept"], b"whole")
    else:
        assert remote.files() == []


def test_a_file_that_another_process_left_half_written_is_not_listed(remote: RemoteFolder) -> None:
    remote.write("x.part", b"half")
    remote.write("y", b"whole")
    assert remote.files() == ["y"]


def test_object_stores_are_written_in_place_and_folders_beside() -> None:
    """Their files appear when they are whole, and a rename there is a copy, of 5 GB at most."""
    assert open_folder("gs://bucket/runs")._renames is False
    assert open_folder("s3://bucket/runs?region=eu-west-1")._renames is False
    assert open_folder("file:///tmp")._renames is True


def test_a_folder_below_a_prefix_keeps_to_it(tmp_path: Path) -> None:
    inner = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    remote = RemoteFolder(inner, "runs", "sub://runs")
    remote.write("x", b"1")
    assert (tmp_path / "runs" / "x").read_bytes() == b"1"
    assert remote.files() == ["x"]


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("ftp://host/runs", ["ftp://host/runs", "s3, gs", "local folder"]),
        ("fsspec+nothing://x", ["fsspec+nothing", "local folder"]),
        ("file://relative/runs", ["file://relative/runs", "local folder"]),
        ("s3://key:hidden@bucket/runs", ["password", "AWS_SECRET_ACCESS_KEY"]),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_with_the_remedy(uri: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        open_folder(uri)
    for part in parts:
        assert part in str(error.value)
    assert "hidden" not in str(error.value)


def test_a_place_that_cannot_be_written_is_refused_before_a_run_starts(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    remote = open_folder(f"file://{tmp_path}/runs/first")
    with (
        pytest.raises(ConfigError, match=rf"runs_dir file://{tmp_path}/runs/first: .*may be written"),
        refusing(remote),
    ):
        remote.write("x", b"")
