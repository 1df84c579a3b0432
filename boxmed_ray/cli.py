"""The command `boxmed`: its sub-commands, their options, and how errors and interrupts end it.

What lives here: reading the command line. What each command does is in commands/, and is imported
when it is called, so that `boxmed --help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from boxmed_ray import __version__
from boxmed_ray.config import ConfigError, recipe_names
from boxmed_ray.ray_local import quiet_environment

app = typer.Typer(
    name="boxmed",
    help="Train, serve and check chest X-ray models that show what they say.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

RunsDir = Annotated[
    Path | None,
    typer.Option(envvar="BOXMED_RUNS_DIR", help="Folder of run folders. Default: the recipe's, which is ./runs."),
]


def main() -> None:
    """Entry point of the console script: one message and exit 2 for what the user can put right."""
    from boxmed_ray.data.study import DataError

    quiet_environment()
    try:
        app()
    except (ConfigError, DataError) as error:
        print(f"boxmed: {error}", file=sys.stderr)
        sys.exit(2)


def _version(asked: bool) -> None:
    if asked:
        print(f"boxmed {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    pass


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Option(help=f"A shipped recipe ({', '.join(recipe_names())}) or a YAML file.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. svr.steps=20.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; a run that exists is refused.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of data, weights, order and sampling.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="NAME", help="Go on with this run where its last checkpoint is.")
    ] = None,
    runs_dir: RunsDir = None,
    again: Annotated[
        bool, typer.Option(help="If the run exists: go on if it is unfinished, else move it aside and start anew.")
    ] = False,
) -> None:
    """Run the stages of a recipe: MCL, SVR, adapter, evaluation.

    Ctrl-C leaves a checkpoint, from which `boxmed train --resume NAME` goes on.
    """
    from boxmed_ray.commands.train import train as run

    code = run(recipe, overrides or [], name=name, seed=seed, resume=resume, runs_dir=runs_dir, again=again)
    raise typer.Exit(code)


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Say what this machine has and lacks, and what to do. Exits 1 if something needed is missing."""
    from boxmed_ray.commands.doctor import doctor as run

    raise typer.Exit(run(as_json=json, runs_dir=runs_dir))


if __name__ == "__main__":
    main()
