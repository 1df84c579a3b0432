"""`boxmed train`: which run is meant, whether it may start, and how it ends.

What lives here: resolving recipe, overrides and run name; refusing what cannot run before anything
heavy is imported. What does not: the stages (pipeline.py).
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from boxmed_ray.commands.plan import refuse_what_cannot_fit
from boxmed_ray.config import ConfigError, RunConfig, is_uri, load_config, parse_config
from boxmed_ray.data.study import DataError
from boxmed_ray.interrupt import Interrupt, interruptible

_CONFIG = "config.yaml"
_MAY_CHANGE = ("resources", "work_dir")
"""What a resumed run may be told anew: where it runs and with how many, never what it does."""


def train(
    recipe: str | None,
    overrides: Sequence[str],
    *,
    name: str | None,
    seed: int | None,
    resume: str | None,
    runs_dir: str | None,
    again: bool,
) -> int:
    """Run or go on with a run; returns the exit code (0, or 128 + signal after an interrupt).

    Raises:
        ConfigError: options that contradict each other, a wrong key or value, a run that exists, a run to
            resume that does not, or a URI that cannot be used.
    """
    if resume is not None:
        fixed = [override for override in overrides if re.split(r"[.=]", override)[0] not in _MAY_CHANGE]
        if recipe is not None or fixed or name is not None or seed is not None or again:
            raise ConfigError(
                f"--resume {resume} goes on with the run as it was configured; leave out --recipe, --name, --seed, "
                f"--again, and --set of anything but {' and '.join(_MAY_CHANGE)}"
            )
        return _run(_existing(resume, runs_dir or "runs", overrides), resume=True)
    if recipe is None:
        raise ConfigError("nothing to train: give --recipe NAME_OR_FILE, or --resume NAME")
    config = load_config(recipe, _as_overrides(overrides, name, seed, runs_dir))
    if not _exists(config):
        return _run(config, resume=False)
    if not again:
        raise ConfigError(
            f"run {config.name!r} exists in {_where(config)}; "
            f"choose another name (--name NAME), or go on with it (--resume {config.name})"
        )
    if _unfinished(config):
        print(f"run {config.name!r} is unfinished: going on with it (--name NAME starts another)", file=sys.stderr)
        return _run(_existing(config.name, config.runs_dir), resume=True)
    if is_uri(config.runs_dir):
        raise ConfigError(
            f"run {config.name!r} is finished in {_where(config)}, and what is there is not moved aside; "
            "choose another name (--name NAME)"
        )
    print(f"run {config.name!r} exists: kept as {_move_aside(config.folder)}", file=sys.stderr)
    return _run(config, resume=False)


def _as_overrides(overrides: Sequence[str], name: str | None, seed: int | None, runs_dir: str | None) -> list[str]:
    """The named options are overrides like any other, and win over --set."""
    named = {"name": name, "seed": seed, "runs_dir": runs_dir}
    return [*overrides, *(f"{key}={_quoted(value)}" for key, value in named.items() if value is not None)]


def _quoted(value: object) -> str:
    """YAML would read a run called 12 or 1e3 as a number."""
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def _existing(name: str, runs_dir: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of a run that is there, at the place and under the name where it was found: it may have been moved."""
    text, others = _remote_config(name, runs_dir) if is_uri(runs_dir) else _local_config(name, Path(runs_dir))
    where = f"{runs_dir.rstrip('/')}/{name}/{_CONFIG}"
    if text is None:
        raise ConfigError(
            f"run {name!r} cannot be resumed: {where} is missing; runs there: {', '.join(others) or 'none'} "
            "(--runs-dir DIR looks elsewhere)"
        )
    return parse_config(text, where, _as_overrides(overrides, name, None, runs_dir))


def _local_config(name: str, runs_dir: Path) -> tuple[str | None, list[str]]:
    """Text of a run's config, or None and the names of the runs that are there."""
    path = runs_dir / name / _CONFIG
    if path.is_file():
        return path.read_text(), []
    return None, sorted(entry.parent.name for entry in runs_dir.glob(f"*/{_CONFIG}"))


def _remote_config(name: str, runs_dir: str) -> tuple[str | None, list[str]]:
    from boxmed_ray.remote import open_folder, refusing

    folder = open_folder(runs_dir)
    with refusing(folder):
        content = folder.folder(name).read(_CONFIG)
        return (None, folder.names()) if content is None else (content.decode(), [])


def _exists(config: RunConfig) -> bool:
    return _holds(config, _CONFIG) if is_uri(config.runs_dir) else config.folder.exists()


def _unfinished(config: RunConfig) -> bool:
    return _holds(config, _CONFIG) and not _holds(config, "summary.json")


def _holds(config: RunConfig, name: str) -> bool:
    """Whether the run has a file of that name, at the place where ``runs_dir`` says."""
    if not is_uri(config.runs_dir):
        return (config.folder / name).is_file()
    from boxmed_ray.remote import open_folder, refusing

    folder = open_folder(config.runs_dir).folder(config.name)
    with refusing(folder):
        return folder.read(name) is not None


def _where(config: RunConfig) -> str:
    return f"{config.runs_dir.rstrip('/')}/{config.name}" if is_uri(config.runs_dir) else str(config.folder)


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
    refuse_what_cannot_fit(config)
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
            + ("" if config.runs_dir == "runs" else f" --runs-dir {shlex.quote(config.runs_dir)}"),
            file=sys.stderr,
        )
        return interrupt.exit_code
    return 0
