"""Filesystems that stand for what ``runs_dir`` may name, and a store of the tester's own."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyarrow import fs

from boxmed_ray.remote import RemoteFolder, open_folder

OWN = "BOXMED_TEST_URI"
"""URI of a folder below which tests may write and remove, such as one of S3's; its tests are skipped without it."""
KINDS = ("file", "mock", "memory", "own")


def remote_folder(kind: str, tmp_path: Path) -> RemoteFolder:
    """An empty folder: local, of pyarrow's filesystem in memory, of fsspec's, or of the tester's own store."""
    if kind == "file":
        return open_folder(f"file://{tmp_path}/remote")
    if kind == "mock":
        return RemoteFolder(fs._MockFileSystem(datetime.now(UTC)), "remote", "mock://remote")
    if kind == "memory":
        return open_folder(f"fsspec+memory://{uuid.uuid4().hex}/remote")
    if OWN not in os.environ:
        pytest.skip(f"{OWN} names no store to test")
    place, question, query = os.environ[OWN].partition("?")
    return open_folder(f"{place.rstrip('/')}/{uuid.uuid4().hex}{question}{query}")
