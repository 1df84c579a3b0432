"""`boxmed train`: which run is meant, whether it may start, and how it ends.

What lives here: resolving recipe, overrides and run name; refusing what cannot run before anything
heavy is imported. What does not: the stages (pipeline.py).
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from boxmed_ray.config import ConfigError, RunConfig, load_config
from boxmed_ray.data.study import DataError
from boxmed_ray.interrupt import Interrupt, interruptible


def train(
    recipe: str | None,
    overrides: Sequence[str],
    *,
    name: str | None,
    seed: int | None,
    resume: str | None,
    runs_dir: Path | None,
    again: bool,
) -> int:
    """Run or go on with a run; returns the exit code (0, or 128 + signal after an interrupt).

    Raises:
        ConfigError: options that contradict each other, a wrong key or value, a run that exists, or a
            run to resume that does not.
    """
    if resume is not None:
        if recipe is not None or overrides or name is not None or seed is not None or again:
            raise ConfigError(
                f"--resume {resume} goes on with the run as it was configured; "
                "leave out --recipe, --set, --name, --seed and --again"
            )
        return _run(_existing(resume, runs_dir or Path("runs")), resume=True)
    if recipe is None:
        raise ConfigError("nothing to train: give --recipe NAME_OR_FILE, or --resume NAME")
    config = load_config(recipe, _as_overrides(overrides, name, seed, runs_dir))
    if not config.folder.exists():
        return _run(config, resume=False)
    if not again:
        raise ConfigError(
            f"run {config.name!r} exists in {config.folder}; "
            f"choose another name (--name NAME), or go on with it (--resume {config.name})"
        )
    if _unfinished(config.folder):
        print(f"run {config.name!r} is unfinished: going on with it (--name NAME starts another)", file=sys.stderr)
        return _run(_existing(config.name, config.runs_dir), resume=True)
    print(f"run {config.name!r} exists: kept as {_move_aside(config.folder)}", file=sys.stderr)
    return _run(config, resume=False)


def _as_overrides(overrides: Sequence[str], name: str | None, seed: int | None, runs_dir: Path | None) -> list[str]:
    """The named options are overrides like any other, and win over --set."""
    named = {"name": name, "seed": seed, "runs_dir": runs_dir}
    return [*overrides, *(f"{key}={_quoted(value)}" for key, value in named.items() if value is not None)]


def _quoted(value: object) -> str:
    """YAML would read a run called 12 or 1e3 as a number."""
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def _existing(name: str, runs_dir: Path) -> RunConfig:
    path = runs_dir / name / "config.yaml"
    if not path.is_file():
        there = sorted(entry.parent.name for entry in runs_dir.glob("*/config.yaml"))
        raise ConfigError(
            f"run {name!r} cannot be resumed: {path} is missing; runs there: {', '.join(there) or 'none'} "
            "(--runs-dir DIR looks elsewhere)"
        )
    # The folder may have been moved or renamed since: where it was found is where it goes on.
    return load_config(str(path), _as_overrides((), name, None, runs_dir))


def _unfinished(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and not (folder / "summary.json").is_file()


def _move_aside(folder: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
    target = folder.with_name(f"{folder.name}.{stamp}")
    count = 1
    while target.exists():
        count += 1
        target = folder.with_name(f"{folder.name}.{stamp}.{count}")
    folder.rename(target)
    return target


def _run(config: RunConfig, resume: bool) -> int:
    from boxmed_ray import pipeline

    interrupt = Interrupt()
    try:
        with interruptible(interrupt):
            pipeline.run(config, resume=resume)
    except DataError:
        # Nothing was trained: the corrected command must not be refused because of this attempt's folder.
        if not resume and not (config.folder / "stages").exists():
            shutil.rmtree(config.folder, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        print(
            f"stopped; go on with: boxmed train --resume {config.name}"
            + ("" if config.runs_dir == Path("runs") else f" --runs-dir {config.runs_dir}"),
            file=sys.stderr,
        )
        return interrupt.exit_code
    return 0
