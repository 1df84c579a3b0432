"""Tables as data sets publish them: CSV or tab-separated text, plain, gzipped or alone in a zip.

What lives here: lines with where they are, columns by name whatever their order, and the messages for
what is missing or malformed. What does not: which table holds what (the readers), finding files (files.py).
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from boxmed_ray.data.readers.boxes import finite
from boxmed_ray.data.study import DataError, Split

MAX_TABLE: Final = 2_000_000_000
"""Unpacked characters; the largest table of a data set read here has some 100 million."""
MAX_LINE: Final = 1_000_000
_MISSING: Final = frozenset({"", "nan", "none", "null", "na"})
_SPLITS: Final[dict[str, Split]] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: cells by column name (in any case), and where it is."""

    where: str
    cells: dict[str, str]

    def get(self, column: str) -> str | None:
        """The stripped cell; None where the column or the value is missing (empty, NaN)."""
        value = self.cells.get(column.lower(), "").strip()
        return None if value.lower() in _MISSING else value

    def text(self, column: str) -> str:
        """The stripped cell; DataError where it is missing."""
        value = self.get(column)
        if value is None:
            raise DataError(f"{self.where}: column {column!r}: is empty; complete or remove the line")
        return value

    def number(self, column: str) -> float:
        """The cell as a finite number; DataError otherwise."""
        return finite(self.text(column), f"{self.where}: column {column!r}")


def split_of(name: str, where: str) -> Split:
    """The split a data set calls ``name`` (train, validate, val, test, …); DataError for anything else."""
    split = _SPLITS.get(name.strip().lower())
    if split is None:
        raise DataError(f"{where} = {name!r}: is no split; use train, val or test")
    return split


def read_table(path: Path, required: Sequence[str]) -> Iterator[Row]:
    """Lines of a table that are not blank.

    Args:
        path: as ``read_cells``.
        required: columns that must be there, in any order and case; others are kept as well.

    Raises:
        DataError: as ``read_cells``, or a column is missing.
    """
    lines = read_cells(path)
    header = [column.strip().lower() for column in next(lines, ("", []))[1]]
    missing = [column for column in required if column.lower() not in header]
    if missing:
        raise DataError(
            f"{path}:1: column {missing[0]!r} is missing (there are: {', '.join(header)[:300] or 'none'}); "
            "use the file as it is published"
        )
    for where, cells in lines:
        yield Row(where, dict(zip(header, cells, strict=False)))


def read_cells(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where each line that is not blank is, and its cells; the heading is the first.

    Args:
        path: ``.csv``, ``.tsv`` or ``.txt`` (tabs), each also with ``.gz``; or a ``.zip`` with one such file.

    Raises:
        DataError: the file cannot be read, is no UTF-8 text, or unpacks to more than ``MAX_TABLE``.
    """
    name = path.name.lower().removesuffix(".gz").removesuffix(".zip")
    delimiter = "\t" if name.endswith((".tsv", ".txt")) else ","
    with _text(path) as file:
        reader = csv.reader(_lines(file, path), delimiter=delimiter)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield f"{path}:{reader.line_num}", cells
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{reader.line_num + 1}: not UTF-8 text ({error.reason}); copy it again") from error
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not readable ({error}); correct the line") from error
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise DataError(f"{path}:{reader.line_num + 1}: not readable ({error}); copy it again") from error


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOWrapper]:
    """The table's text, unpacked as it is read."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".zip":
                with zipfile.ZipFile(file) as archive:
                    # What macOS puts beside a file (__MACOSX/._a.csv) is no table.
                    tables = [n for n in archive.namelist() if n.lower().endswith((".csv", ".tsv", ".txt"))]
                    names = [n for n in tables if not PurePosixPath(n).name.startswith("._")]
                    if len(names) != 1:
                        raise DataError(f"{path}: holds {len(names)} tables, not one; unpack the one that is meant")
                    with archive.open(names[0]) as member:
                        yield _decoded(member)
            elif path.suffix.lower() == ".gz":
                with gzip.open(file) as unpacked:
                    yield _decoded(unpacked)
            else:
                yield _decoded(file)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy it again") from error


def _decoded(file: IO[bytes] | gzip.GzipFile) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _lines(file: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """Lines, counted: a few kilobytes can unpack to more than the memory holds."""
    total = 0
    while line := file.readline(MAX_LINE + 1):
        total += len(line)
        if len(line) > MAX_LINE or total > MAX_TABLE:
            limit = f"a line of more than {MAX_LINE}" if len(line) > MAX_LINE else f"more than {MAX_TABLE}"
            raise DataError(f"{path}: has {limit} characters; it is no table of a data set")
        yield line
