"""A folder on any filesystem that pyarrow.fs knows: local, S3, GCS, Azure, HDFS, or one of fsspec's.

What lives here: opening a URI, and reading, writing, listing and removing files so that a file is whole or not there.
What does not: what of a run goes there, and in which order (mirror.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pyarrow import ArrowException, fs

from boxmed_ray.config import ConfigError

_WHOLE_AT_CLOSE: Final = frozenset({"s3", "gcs", "abfs"})
"""Object stores: what is written appears when the stream is closed. They rename by copying, up to some size only."""
_PART: Final = ".part"
_CHUNK: Final = 8 << 20
SCHEMES: Final = "file, s3, gs, abfs, hdfs, hf, fsspec+PROTOCOL"


class RemoteFolder:
    """A folder of a pyarrow filesystem. Paths are relative to it, with slashes.

    Args:
        filesystem: that it is on.
        root: of the folder; need not exist.
        uri: as the user names it, for messages.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, uri: str) -> None:
        self._fs, self._root, self.uri = filesystem, root.rstrip("/"), uri.rstrip("/")
        self._renames = filesystem.type_name not in _WHOLE_AT_CLOSE

    def folder(self, name: str) -> RemoteFolder:
        """A folder inside."""
        return RemoteFolder(self._fs, self._at(name), f"{self.uri}/{name}")

    def read(self, path: str) -> bytes | None:
        """Content of a small file; None where there is none.

        Raises:
            OSError: it cannot be read.
        """
        try:
            with self._fs.open_input_stream(self._at(path)) as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        return content

    def write(self, path: str, content: bytes) -> None:
        """Write a small file.

        Raises:
            OSError: it cannot be written.
        """
        with _Writer(self, path) as stream:
            stream.write(content)

    def upload(self, source: Path, path: str) -> None:
        """Copy a local file there, beside and renamed where the filesystem does not itself wait for the whole file."""
        with source.open("rb") as file, _Writer(self, path) as stream:
            shutil.copyfileobj(file, stream, _CHUNK)

    def download(self, path: str, target: Path) -> None:
        """Copy a file from there to a local path, whose folder is made."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._fs.open_input_stream(self._at(path)) as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file, _CHUNK)

    def files(self, path: str = "") -> list[str]:
        """All files below ``path``, sorted, without those that were left half-written."""
        base = self._at(path)
        found = self._fs.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
        # Filesystems differ in whether a path begins with a slash.
        start = len(self._root.strip("/")) + 1
        names = [info.path.strip("/")[start:] for info in found if info.type == fs.FileType.File]
        return sorted(name for name in names if not name.endswith(_PART))

    def names(self) -> list[str]:
        """Names of the files and folders directly inside, sorted."""
        found = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def remove(self, path: str) -> None:
        """Remove a file; it need not be there."""
        try:
            self._fs.delete_file(self._at(path))
        except FileNotFoundError:
            return

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all in it; it need not be there."""
        try:
            self._fs.delete_dir(self._at(path))
        except FileNotFoundError:
            return

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


class _Writer:
    """A stream to a file that appears, whole, when the block ends without an error."""

    def __init__(self, folder: RemoteFolder, path: str) -> None:
        self._fs, self._final, self._renames = folder._fs, folder._at(path), folder._renames
        self._written = self._final + _PART if self._renames else self._final

    def __enter__(self) -> Any:
        if self._renames:  # object stores have no folders
            self._fs.create_dir(self._final.rpartition("/")[0], recursive=True)
        self._stream = self._fs.open_output_stream(self._written)
        return self._stream

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._abandon()
            return
        self._stream.close()
        if self._renames:
            self._put()

    def _put(self) -> None:
        if self._fs.type_name == "hdfs":  # refuses to rename over a file
            info = self._fs.get_file_info(self._final)
            if info.type != fs.FileType.NotFound:
                self._fs.delete_file(self._final)
        self._fs.move(self._written, self._final)

    def _abandon(self) -> None:
        """What is written so far must not be taken for the file; closing is all that pyarrow offers."""
        with suppress(OSError):  # the error that led here is the one to tell
            self._stream.close()
            self._fs.delete_file(self._written)


def open_folder(uri: str) -> RemoteFolder:
    """The folder that a URI names. Credentials come from the environment, as each store's own tools take them.

    Raises:
        ConfigError: the scheme is unknown, its library is missing, the store does not answer, or the URI holds
            a password.
    """
    if urlsplit(uri).password:
        where = f"{urlsplit(uri).scheme}://{urlsplit(uri).hostname}"
        raise ConfigError(
            f"runs_dir {where}/…: the URI holds a password, which would be written into config.yaml; "
            "give it by the environment instead (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (ArrowException, ValueError, ImportError) as error:
        raise ConfigError(
            f"runs_dir {uri}: {_first_line(error)}; use the path of a local folder, or a URI of: {SCHEMES}"
        ) from error
    except OSError as error:
        raise ConfigError(f"runs_dir {uri}: the store cannot be reached: {_first_line(error)}") from error
    return RemoteFolder(filesystem, root, uri.partition("?")[0])


@contextmanager
def refusing(folder: RemoteFolder) -> Iterator[None]:
    """Before a run starts, a place that cannot be used is the user's to put right.

    Raises:
        ConfigError: for any error of the filesystem inside the block.
    """
    try:
        yield
    except (OSError, ArrowException) as error:
        raise ConfigError(
            f"runs_dir {folder.uri}: {_first_line(error)}; check that it exists, may be written, and that the "
            "store's credentials are in the environment"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
