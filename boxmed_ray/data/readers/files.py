"""Finding the files of a data set: tables by their published names, images by path or stem.

What lives here: one walk of a folder that spares the tree of MIMIC-CXR (hundreds of thousands of folders), and
names that must not leave it. What does not: what is in a file (tables.py, images.py, the readers).
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from boxmed_ray.data.images import SUFFIXES, image_size
from boxmed_ray.data.study import DataError

MAX_JSON: Final = 1_000_000_000
_GROUP: Final = re.compile(r"p\d\d")
"""Top folders of the tree of MIMIC-CXR: p10 to p19."""


class DataFolder:
    """A data set's folder: ``data.root`` and all below it, in the layout it was downloaded with.

    Several downloads may lie below one root, as ``wget`` leaves them (``physionet.org/files/<project>/<version>/``), or
    be linked there.

    Raises:
        DataError: ``root`` is no folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"data.root = {str(root)!r}: no such folder; give the folder that holds the data set")
        self.root = Path(os.path.abspath(root))

    @cached_property
    def _walked(self) -> tuple[dict[str, list[Path]], list[Path]]:
        """Files by name outside the trees of MIMIC-CXR, and the folders that hold such trees."""
        files: dict[str, list[Path]] = defaultdict(list)
        trunks = []
        for folder, below, names in _walk(self.root):
            groups = [name for name in below if _GROUP.fullmatch(name)]
            if groups:
                trunks.append(folder)
                below[:] = [name for name in below if name not in groups]
            for name in names:
                files[name].append(folder / name)
        return files, sorted(trunks)

    @property
    def trunks(self) -> list[Path]:
        """Folders that hold ``p10``, ``p11``, …: of images, of reports, or of both."""
        return self._walked[1]

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        images: dict[str, list[Path]] = defaultdict(list)
        for folder, _, names in _walk(self.root):
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    images[stem].append(folder / name)
        return images

    def find(self, *patterns: str) -> Path | None:
        """The one file whose whole name matches a regular expression, the first that any does; gzipped or not.

        Raises:
            DataError: several files match one expression.
        """
        for pattern in patterns:
            expression = re.compile(rf"(?:{pattern})(?:\.gz)?")
            found = [path for name, paths in self._walked[0].items() if expression.fullmatch(name) for path in paths]
            # A table beside its own packed copy is one table.
            found = sorted(path for path in found if path.suffix != ".gz" or path.with_suffix("") not in found)
            if len(found) > 1:
                raise DataError(
                    f"{self.root}: holds {found[0].name} and {found[1].name} ({found[0].parent}, {found[1].parent}); "
                    "keep one, or give the folder of one as data.root"
                )
            if found:
                return found[0]
        return None

    def all(self, pattern: str) -> list[Path]:
        """Every file whose whole name matches a regular expression, sorted."""
        expression = re.compile(pattern)
        return sorted(path for name, paths in self._walked[0].items() if expression.fullmatch(name) for path in paths)

    def need(self, name: str, *patterns: str) -> Path:
        """As ``find``, but DataError where nothing matches: ``name`` says what is missing."""
        path = self.find(*patterns or (re.escape(name),))
        if path is None:
            raise DataError(f"{self.root}: no {name} in it or below; data.root must hold the data set as published")
        return path

    @cached_property
    def has_images(self) -> bool:
        """Whether there is any image below the root."""
        return bool(self.trunks) or bool(self._by_stem)

    def image(self, stem: str, where: str, *relative: str) -> Path:
        """The one image file of a name.

        Args:
            stem: its name without the suffix: resized or re-encoded copies work.
            where: of the line that names it, for messages.
            relative: paths at which it is published, below the root or below the tree of MIMIC-CXR.

        Raises:
            DataError: a path leaves the root, or there is no image or more than one.
        """
        if (published := self.published(where, *relative)) is not None:
            return published
        found = self._by_stem.get(stem, [])
        if len(found) != 1:
            have = f"{len(found)} images ({found[0]}, {found[1]}, …)" if found else "no image"
            remedy = "remove all but one" if found else "download it or remove the line"
            raise DataError(f"{where}: {have} named {stem!r} below {self.root}; {remedy}")
        return found[0]

    def published(self, where: str, *relative: str) -> Path | None:
        """The image at one of the paths, in any format; None where it is at none.

        Raises:
            DataError: a path leaves the root, or is none.
        """
        for path in self._places(where, relative):
            for suffix in dict.fromkeys((path.suffix, *sorted(SUFFIXES))):
                candidate = path.with_suffix(suffix) if path.stem else path
                try:
                    if suffix and candidate.is_file():
                        return candidate
                except OSError as error:  # a name of more than 255 bytes
                    raise DataError(f"{where}: image {path.name[:80]!r}…: {error.strerror}; correct the path") from None
        return None

    def _places(self, where: str, relative: Sequence[str]) -> Iterator[Path]:
        for name in relative:
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if not parts or parts[0].endswith(("/", ":")) or ".." in parts:
                raise DataError(f"{where}: image {name!r}: lies outside {self.root}; correct the path")
            yield self.root.joinpath(*parts)
            if parts[0] == "files":
                parts = parts[1:]
            yield from (trunk.joinpath(*parts) for trunk in self.trunks)


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As ``os.walk``, with links to folders; each folder is entered once, so circles end."""
    entered = set()
    for folder, below, names in os.walk(root, onerror=_unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            below.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        below.sort()
        yield Path(folder), below, names


def _unreadable(error: OSError) -> None:
    # A folder that is passed over would be studies lost in silence.
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions")


def stored_size(path: Path, where: str) -> tuple[int, int]:
    """Width and height of an image, upright; DataError naming ``where`` too."""
    try:
        return image_size(path)
    except DataError as error:
        raise DataError(f"{where}: image: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file, gzipped or not; DataError where it is none or larger than ``MAX_JSON`` bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise DataError(f"{path}: has more than {MAX_JSON} bytes; it is no file of this data set")
        return json.loads(data)
    except (OSError, EOFError, zlib.error) as error:
        what = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({what}); check the path, or copy it again") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); copy it again") from error
