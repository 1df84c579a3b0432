"""`boxmed data build`, `check`, `show` and `stats`: data sets made, judged, looked at and counted.

What lives here: what they print and write. What does not: their work (data/, stages/build.py).
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import get_args

from boxmed_ray.config import ConfigError
from boxmed_ray.data.knowledge import DISEASES
from boxmed_ray.data.readers import Located, SkippedStudy
from boxmed_ray.data.sources import Source, parse_source
from boxmed_ray.data.study import DataError, Split, Study

_EVERY = 1000
"""Studies between two lines of progress."""


def build(
    source: str,
    to: Path,
    scale: float,
    max_pixels: int | None,
    test_share: float,
    *,
    skip_corrupt: bool,
    workers: int | None,
) -> None:
    """Build a data set and say what was done.

    Raises:
        DataError: source or target cannot be used.
    """
    from boxmed_ray.data.shards import Size
    from boxmed_ray.stages import build as stage

    named = parse_source(source)
    shown = _Progress("built")
    try:
        built = stage.build(
            named.items(test_share),
            to,
            {"kind": named.kind, "test_share": test_share},
            Size(scale, max_pixels),
            skip_corrupt=skip_corrupt,
            workers=workers,
            on_progress=shown.update,
        )
    except KeyboardInterrupt:
        print("\nboxmed: stopped; the same command goes on with it", file=sys.stderr)
        raise
    shown.end()
    again = f"; {built.found} of {built.found + built.made} shards were there already" if built.found else ""
    print(f"{built.manifest}: {built.studies} studies, {built.skipped} left out{again}")
    if built.skipped:
        print(f"left out, with reasons: {built.manifest.parent / 'skipped.jsonl'}")
    print(f"train on it: --set data.kind=manifest --set data.root={built.manifest.parent}")


def check(sources: Sequence[str], *, as_json: bool) -> int:
    """Print every problem; 1 if one is an error, else 0.

    Raises:
        DataError: a source cannot be read at all.
    """
    from boxmed_ray.data.checks import check_items

    shown = _Progress("checked")
    counts, problems, studies = Counter[str](), [], 0

    def count(checked: int) -> None:
        nonlocal studies
        studies = checked
        shown.update(checked, None)

    for problem in check_items(chain.from_iterable(named.items() for named in _sources(sources)), count):
        counts[problem.level] += 1
        if as_json:
            problems.append(asdict(problem))
        else:
            print(f"{problem.level} {problem.code} {problem.study}: {problem.what}; {problem.remedy}")
    shown.end()
    errors, warnings = counts["error"], counts["warning"]
    if as_json:
        print(json.dumps({"studies": studies, "errors": errors, "warnings": warnings, "problems": problems}, indent=1))
    else:
        print(f"{studies} studies, {errors} errors, {warnings} warnings")
    return 1 if errors else 0


def show(
    source: str, to: Path, count: int, seed: int, *, split: str | None, disease: str | None, ids: Sequence[str]
) -> None:
    """Draw some studies.

    Raises:
        DataError: no such study, or an image cannot be read.
        ConfigError: an option is unknown, or the file cannot be written.
    """
    from boxmed_ray.data.show import choose, draw_page, draw_sheet

    _one_of("--to", to.suffix, (".png", ".html"))
    _one_of("--split", split, get_args(Split))
    _one_of("--disease", disease, DISEASES)
    named = parse_source(source)
    chosen = choose(_studies([named]), count, seed, split=split, disease=disease, ids=ids)
    if missing := set(ids) - {study.id for study in chosen}:
        raise DataError(f"{source}: no study {', '.join(sorted(missing))}; see its manifest for the ids")
    if not chosen:
        raise DataError(f"{source}: no study to show; ask for another --split or --disease")
    title = f"{len(chosen)} studies of {named.root.name}"
    data = draw_sheet(chosen) if to.suffix == ".png" else draw_page(chosen, title).encode()
    with _writing(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(f".{to.name}.part")
        part.write_bytes(data)
        os.replace(part, to)
    print(f"{to}: {len(chosen)} studies")


def stats(sources: Sequence[str], to: Path, plots: str) -> None:
    """Print the tables, and write them with their plots.

    Raises:
        DataError: a source cannot be read at all, or holds nothing.
        ConfigError: an option is unknown, or the folder cannot be written.
    """
    from boxmed_ray.data.stats import count_studies, write_stats

    _one_of("--plots", plots, ("png", "svg"))
    counted = count_studies(_studies(_sources(sources)))
    if not counted.splits:
        raise DataError(f"{', '.join(sources)}: no study that can be used")
    for table in counted.tables:
        print(_columns(table.lines(counted.splits)), end="\n\n")
    with _writing(to):
        written = write_stats(counted, to, plots)
    print(f"{to}: {len(written)} files")


def _sources(texts: Sequence[str]) -> list[Source]:
    """All of them, before any is read."""
    return [parse_source(text) for text in texts]


def _studies(sources: Sequence[Source]) -> Iterator[Study]:
    """Studies that can be used; the others are counted on stderr."""
    skipped = 0
    for item in chain.from_iterable(source.items() for source in sources):
        if isinstance(item, Located):
            yield item.study
        else:
            skipped += isinstance(item, SkippedStudy)
    if skipped:
        print(f"{skipped} studies cannot be used; `boxmed data check` says why", file=sys.stderr)


def _one_of(option: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        raise ConfigError(f"{option} {value!r}: use one of: {', '.join(allowed)}")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another place with --to") from error


def _columns(lines: list[list[str]]) -> str:
    """Rows of text, the first column flush left, the others right."""
    first = max(len(line[0]) for line in lines)
    return "\n".join(line[0].ljust(first) + "".join(cell.rjust(9) for cell in line[1:]) for line in lines)


class _Progress:
    """A count on stderr where somebody looks."""

    def __init__(self, verb: str) -> None:
        self._verb, self._shown = verb, sys.stderr.isatty()
        self._told = False

    def update(self, done: int, of: int | None) -> None:
        if self._shown and (of is not None or done % _EVERY == 0):
            self._told = True
            whole = f" of {of}" if of is not None else ""
            print(f"\r{self._verb} {done}{whole} studies", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._told:
            print(file=sys.stderr)
