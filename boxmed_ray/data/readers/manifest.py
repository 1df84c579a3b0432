"""The project's own format: a manifest of studies beside their images, JSONL or Parquet.

What lives here: writing and reading it. What does not: where studies come from (other readers),
what makes one valid (study.py).

JSONL: the first line is ``{"schema_version": 1, "origin": {…}}``, every other line one Study. Parquet:
one row a study, the version and the origin in the file's metadata. Image paths are relative to the
manifest where the image lies below its folder. The columns of ``ImageHashes`` may stand beside those of a study.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from boxmed_ray.data.readers import ImageHashes, Item, Located, SkippedStudy, explain, split_by_patient
from boxmed_ray.data.study import SCHEMA_VERSION, DataError, Study

NAMES: Final = ("manifest.jsonl", "manifest.parquet")
_META_KEY: Final = b"boxmed"


def write_manifest(path: Path, studies: Sequence[Study], origin: Mapping[str, Any] | None = None) -> None:
    """Write studies; the file appears whole or not at all.

    Args:
        path: ends in ``.jsonl`` or ``.parquet``.
        studies: with absolute image paths.
        origin: what the studies were made from, if it should be known later; JSON values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    head = manifest_head(origin or {})
    rows = [manifest_row(study, path.parent.absolute()) for study in studies]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if _is_parquet(path):
        _write_parquet(temporary, rows, head)
    else:
        lines = [json.dumps(value, ensure_ascii=False) for value in [head, *rows]]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def find_manifest(root: Path) -> Path:
    """The manifest that ``root`` is or holds.

    Raises:
        DataError: there is none, or one of each format.
    """
    if root.is_file():
        return root
    found = [root / name for name in NAMES if (root / name).is_file()]
    if len(found) != 1:
        have = "both" if found else "neither"
        raise DataError(f"data.root = {str(root)!r}: holds {have} of {' and '.join(NAMES)}; give one of them")
    return found[0]


def read_manifest(path: Path, test_share: float = 0.0) -> Iterator[Item]:
    """Every study of a manifest.

    Args:
        path: ends in ``.jsonl`` or ``.parquet``.
        test_share: share of patients held out where the manifest names no split at all.

    Raises:
        DataError: no such file, not in the format, or of another schema version.
    """
    has_splits: bool | None = None
    folder = path.parent.absolute()
    for where, row in _rows(path):
        if isinstance(row, SkippedStudy):
            yield row
            continue
        named = row.get("split") is not None
        has_splits = named if has_splits is None else has_splits
        name = str(row.get("id", where))
        if named != has_splits:
            yield SkippedStudy(
                name, f"{where}: split = {row.get('split')!r}: name a split in every study of a manifest or in none"
            )
            continue
        if not named:
            row["split"] = split_by_patient(str(row.get("source")), str(row.get("patient_id")), test_share)
        hashes = _take_hashes(row)
        try:
            # By way of JSON because in strict mode only JSON may give a path or a tuple as text and list.
            study = Study.model_validate_json(json.dumps(row), strict=True)
        except ValidationError as error:
            yield SkippedStudy(name, f"{explain(error, where)}; correct it")
        else:
            image = Path(os.path.abspath(folder / study.image))
            yield Located(study.model_copy(update={"image": image}), where, hashes)


def read_origin(path: Path) -> dict[str, Any]:
    """What the studies were made from, as given to ``write_manifest``.

    Raises:
        DataError: as ``read_manifest``.
    """
    if _is_parquet(path):
        with _open_parquet(path) as file:
            return _check_head(file.schema_arrow.metadata or {}, path)
    with path.open("rb") as file:
        return _check_head({_META_KEY: file.readline()}, path)


def manifest_row(study: Study, folder: Path) -> dict[str, Any]:
    """A study as a manifest in ``folder`` (absolute) holds it."""
    row = study.model_dump(mode="json")
    image = study.image.absolute()
    row["image"] = str(image.relative_to(folder)) if image.is_relative_to(folder) else str(image)
    return row


def _is_parquet(path: Path) -> bool:
    if path.suffix not in {".jsonl", ".parquet"}:
        raise DataError(f"{path}: a manifest ends in .jsonl or .parquet; rename or convert it")
    return path.suffix == ".parquet"


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | SkippedStudy]]:
    """Studies as they are written, each with where it is."""
    if not path.is_file():
        raise DataError(f"{path}: no such manifest; give data.root as a manifest or the folder that holds one")
    return _parquet_rows(path) if _is_parquet(path) else _json_rows(path)


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | SkippedStudy]]:
    with path.open("rb") as file:
        _check_head({_META_KEY: file.readline()}, path)
        for number, line in enumerate(file, start=2):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                yield where, SkippedStudy(where, f"{where}: {_start(line)}: not JSON ({error}); correct the line")
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                yield where, SkippedStudy(where, f"{where}: {_start(line)}: not a study; write one JSON object a line")


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | SkippedStudy]]:
    import pyarrow as pa

    number = 0
    with _open_parquet(path) as file:
        _check_head(file.schema_arrow.metadata or {}, path)
        try:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    for finding in row.get("findings") or ():
                        if finding.get("readings") is None:  # as the format has a key that was left out
                            finding.pop("readings", None)
                    yield f"{path}: row {number}", row
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: damaged after row {number} ({error}); write it again") from error


def _open_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet ({error}); write it again") from error


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], head: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows), schema=manifest_schema(head)), path)


def manifest_head(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of itself."""
    return {"schema_version": SCHEMA_VERSION, "origin": dict(origin)}


def manifest_schema(head: Mapping[str, Any], hashes: bool = False) -> Any:
    """The Arrow schema of a manifest, with the columns of ``ImageHashes`` or without."""
    import pyarrow as pa

    finding = [("phrase", pa.string()), ("boxes", pa.list_(pa.list_(pa.float64()))),
               ("disease", pa.string()), ("region", pa.string()),
               ("readings", pa.list_(pa.list_(pa.list_(pa.float64()))))]  # fmt: skip
    kinds = {"width": pa.int32(), "height": pa.int32(), "findings": pa.list_(pa.struct(finding))}
    names = [*Study.model_fields, *(ImageHashes._fields if hashes else ())]
    fields = [(name, kinds.get(name, pa.string())) for name in names]
    return pa.schema(fields, metadata={_META_KEY: json.dumps(head).encode()})


def _take_hashes(row: dict[str, Any]) -> ImageHashes | None:
    """Take the columns of ``ImageHashes`` out of a row; None where one is missing."""
    values = [row.pop(name, None) for name in ImageHashes._fields]
    return ImageHashes(*values) if all(isinstance(value, str) for value in values) else None


def _check_head(metadata: Mapping[bytes, bytes], path: Path) -> dict[str, Any]:
    """The origin, from the head of a manifest of a version this code reads."""
    try:
        head = json.loads(metadata[_META_KEY])
        version, origin = head["schema_version"], head.get("origin", {})
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            f'{path}:1: does not begin with {{"schema_version": {SCHEMA_VERSION}}}; it is no manifest of studies: '
            "write it with boxmed_ray.data.readers.manifest.write_manifest"
        ) from None
    if version != SCHEMA_VERSION or not isinstance(origin, dict):
        raise DataError(f"{path}:1: schema_version = {version!r}: this version reads {SCHEMA_VERSION}; write it again")
    return origin


def _start(line: bytes, limit: int = 80) -> str:
    text = line.decode(errors="replace").strip()
    return repr(text if len(text) <= limit else f"{text[:limit]}…")
