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
from boxmed_ray.config import ConfigError, is_uri, recipe_names
from boxmed_ray.ray_local import quiet_environment

_HELP = """Train, serve and check chest X-ray models that show what they say.

A run takes X-rays with boxes and reports through medical concept learning (MCL), reinforcement on where findings are
(SVR) and an adapter for reports, and ends with a report page and a model that `boxmed serve` serves. Everything that
can be wrong beforehand is refused with one message and exit code 2; Ctrl-C leaves a checkpoint.
"""

_EXAMPLES = """\b
A first run, without a GPU:     boxmed train --recipe phantom-cpu
On X-rays of your own:          boxmed data --recipe mine.yaml; boxmed train --recipe mine.yaml
Does it fit on four GPUs?       boxmed plan --recipe boxmed-qwen2-vl-2b --gpus 4
On a cluster:                   boxmed doctor --remote HOST:8265 --recipe NAME
                                boxmed submit --address HOST:8265 -- train --recipe NAME
                                boxmed jobs list --address HOST:8265
What came of it:                boxmed serve runs/phantom-cpu --no-auth
After a stop or a crash:        boxmed train --resume NAME

\b
Exit codes: 0 done, 1 failed, 2 refused (the message says what to change), 130 and 143 stopped with a checkpoint.
Keys of a recipe: docs/configuration.md. Handbook: docs/index.md.
"""

app = typer.Typer(
    name="boxmed",
    help=_HELP,
    epilog=_EXAMPLES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

rewards_app = typer.Typer(no_args_is_help=True, help="Score reports, and see which scorers are ready.")
app.add_typer(rewards_app, name="rewards")
jobs_app = typer.Typer(no_args_is_help=True, help="Jobs on a cluster: list, status, logs, stop.")
app.add_typer(jobs_app, name="jobs")

data_app = typer.Typer(help="Read, check and make data sets.")
app.add_typer(data_app, name="data")

keys_app = typer.Typer(no_args_is_help=True, help="API keys of `boxmed serve`: make, list, revoke.")
app.add_typer(keys_app, name="keys")

KEYS = Path("~/.config/boxmed/keys.json")
KeysFile = Annotated[Path, typer.Option(envvar="BOXMED_KEYS", help="File of API keys.")]

RunsDir = Annotated[
    str | None,
    typer.Option(
        envvar="BOXMED_RUNS_DIR", help="Folder of run folders, or a URI (s3://…). Default: the recipe's, ./runs."
    ),
]


def main() -> None:
    """Entry point of the console script.

    One message and exit 2 for what the user can put right before it starts, one and exit 1 for a training that
    diverged or rang an alarm, for workers that do not start, and for checkpoints that cannot be read, written or
    uploaded.
    """
    from boxmed_ray.actors.pool_items import PoolError
    from boxmed_ray.actors.weight_backend import BackendError
    from boxmed_ray.checkpoint import CheckpointError
    from boxmed_ray.commands.ablate import AblationError
    from boxmed_ray.data.study import DataError
    from boxmed_ray.stages.watch import DivergedError, DriftError

    quiet_environment()
    try:
        app()
    except (ConfigError, DataError, BackendError) as error:
        print(f"boxmed: {error}", file=sys.stderr)
        sys.exit(2)
    except (AblationError, DivergedError, DriftError, CheckpointError, PoolError) as error:
        print(f"boxmed: {error}", file=sys.stderr)
        sys.exit(1)


def _run_folder(run: Path, runs_dir: str | None) -> Path:
    """The folder that is meant by a folder, or by a name below the folder of runs."""
    if is_uri(runs_dir or ""):
        raise ConfigError(f"--runs-dir {runs_dir}: this reads a run in a local folder; give that folder, or a copy")
    named = Path(runs_dir or "runs", run)
    return run if run.exists() or not named.exists() else named


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
        str | None, typer.Option(metavar="NAME", help="Go on with this run; --set resources.… may change.")
    ] = None,
    runs_dir: RunsDir = None,
    again: Annotated[
        bool, typer.Option(help="If the run exists: go on if it is unfinished, else move it aside and start anew.")
    ] = False,
    restarts: Annotated[
        int, typer.Option(min=0, help="Go on by itself, so many times, with a run that is killed (out of memory).")
    ] = 0,
) -> None:
    """Run the stages of a recipe: MCL, SVR, adapter, evaluation.

    Ctrl-C leaves a checkpoint, from which `boxmed train --resume NAME` goes on.
    """
    if restarts:
        from boxmed_ray.commands.supervise import supervise

        named = {"recipe": recipe, "name": name, "seed": seed, "resume": resume, "runs-dir": runs_dir}
        arguments = [part for key, value in named.items() if value is not None for part in (f"--{key}", str(value))]
        arguments += [part for each in overrides or [] for part in ("--set", each)]
        raise typer.Exit(supervise([*arguments, *(["--again"] if again else [])], restarts))
    from boxmed_ray.commands.train import train as run

    code = run(recipe, overrides or [], name=name, seed=seed, resume=resume, runs_dir=runs_dir, again=again)
    raise typer.Exit(code)


@data_app.callback(invoke_without_command=True)
def data(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Option(help="A shipped recipe or a YAML file.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key.")] = None,
) -> None:
    """Read and check the data set of a recipe without training, and count what is in it."""
    if context.invoked_subcommand is not None:
        return
    if recipe is None:
        raise ConfigError("data: give --recipe, or one of the sub-commands of `boxmed data --help`")
    from boxmed_ray.commands.data import data as run

    run(recipe, overrides or [])


@data_app.command("concepts")
def data_concepts(
    root: Annotated[Path, typer.Argument(help="Folder of Open-i reports: NLMCXR_reports.tgz, or its XML files.")],
    table: Annotated[Path | None, typer.Option(help="A mapping of your own (TOML), or additions.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Reference labels. Default: negbio_labels*.csv in ROOT.")] = None,
    unmapped: Annotated[int, typer.Option(min=0, help="Sentences without a place to show.")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="Folder that gets chains.jsonl, thinking.jsonl and unmapped.csv.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: section, name, measure, value.")] = False,
    unread: Annotated[
        bool, typer.Option("--unread", help="Only the half not read for the shipped table; no sentences are shown.")
    ] = False,
) -> None:
    """What the mapping of free text onto diseases and regions covers of a corpus of reports.

    Shares of finding sentences with a disease and a region, signs, agreement with reference labels, and the sentences
    without a place that occur most.
    """
    from boxmed_ray.commands.data_concepts import concepts

    concepts(root, table, labels, unmapped, out, as_json=as_json, as_csv=as_csv, unread=unread)


@data_app.command("from-feedback")
def data_from_feedback(
    folder: Annotated[Path, typer.Argument(help="What `boxmed serve --feedback FOLDER --feedback-images` keeps.")],
    to: Annotated[Path, typer.Option(help="Folder that gets manifest.jsonl; must not hold one.")],
) -> None:
    """Make studies of readers' verdicts, for the next supervised or RL round (data.kind=manifest)."""
    from boxmed_ray.commands.data import from_feedback

    from_feedback(folder, to)


SourceName = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A manifest or its folder, or KIND=PATH as published (nih=DIR).")
]
SourceNames = Annotated[
    list[str], typer.Argument(metavar="SOURCE...", help="Manifests or their folders, or KIND=PATH as published.")
]


@data_app.command("build")
def data_build(
    source: SourceName,
    to: Annotated[Path, typer.Option(help="Folder that gets images and manifest.parquet; a killed build goes on.")],
    scale: Annotated[float, typer.Option(min=0.01, max=1.0, help="Of height and width; the paper's is .25.")] = 0.25,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="A budget for an image instead of --scale.")] = None,
    test_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of patients held out, where there are no splits.")
    ] = 0.2,
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help="Leave out what cannot be read.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="At once. Default: one each CPU.")] = None,
) -> None:
    """Make smaller images, hashes and a Parquet manifest of a data set, for data.kind=manifest."""
    from boxmed_ray.commands.data_build import build as run

    run(source, to, scale, max_pixels, test_share, skip_corrupt=skip_corrupt, workers=workers)


@data_app.command("check")
def data_check(
    sources: SourceNames,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Look for leaks between splits, one image twice, wrong sides, boxes, labels and reports. Exits 1 on errors."""
    from boxmed_ray.commands.data_build import check as run

    raise typer.Exit(run(sources, as_json=json))


@data_app.command("show")
def data_show(
    source: SourceName,
    to: Annotated[Path, typer.Option(help="A .png for a contact sheet, a .html for a page that needs no other file.")],
    count: Annotated[int, typer.Option(min=1, max=500, help="Studies shown.")] = 12,
    seed: Annotated[int, typer.Option(help="Of which are shown.")] = 0,
    split: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    disease: Annotated[str | None, typer.Option(help="Only studies with a finding of it.")] = None,
    study: Annotated[list[str] | None, typer.Option("--study", metavar="ID", help="These, whatever else.")] = None,
) -> None:
    """Draw studies with their boxes and words."""
    from boxmed_ray.commands.data_build import show as run

    run(source, to, count, seed, split=split, disease=disease, ids=study or [])


@data_app.command("stats")
def data_stats(
    sources: SourceNames,
    to: Annotated[Path, typer.Option(help="Folder that gets the tables as CSV and the plots.")],
    plots: Annotated[str, typer.Option(help="png or svg.")] = "png",
) -> None:
    """Count studies, findings, boxes and words, by split."""
    from boxmed_ray.commands.data_build import stats as run

    run(sources, to, plots)


@app.command(short_help="Say what goes on which GPU, and whether it fits.")
def plan(
    recipe: Annotated[str, typer.Option(help="A shipped recipe or a YAML file.")],
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Lay the run out on so many GPUs. Default: as the recipe places it.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key.")] = None,
) -> None:
    """Say where a run's parts go on GPUs and how full each gets. Exits 2 if it cannot fit, with what would.

    Nothing is loaded or started: parameters are counted on the backbone's real architecture, memory is arithmetic.
    """
    from boxmed_ray.commands.plan import plan as run

    raise typer.Exit(run(recipe, overrides or [], gpus))


@app.command(short_help="Serve a finished run over HTTP.")
def serve(
    run: Annotated[Path, typer.Argument(help="A finished run: its folder, or its name below the folder of runs.")],
    host: Annotated[str, typer.Option(help="Address to listen on; with keys it may be other machines'.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    keys: Annotated[
        Path, typer.Option(envvar="BOXMED_KEYS", help="File of API keys (`boxmed keys add NAME` makes one).")
    ] = KEYS,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask for no key; only this machine can reach it.")] = False,
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="A further adapter, asked for by that name.")
    ] = None,
    replicas: Annotated[str, typer.Option(metavar="MIN[:MAX]", help="Engines; more than MIN under load.")] = "1",
    waiting: Annotated[int, typer.Option(min=1, help="Requests under way in each engine; more get 503.")] = 32,
    feedback: Annotated[Path | None, typer.Option(help="Folder that keeps readers' verdicts.")] = None,
    feedback_images: Annotated[
        bool, typer.Option("--feedback-images", help="Keep the pixels beside them, for `boxmed data from-feedback`.")
    ] = False,
    origin: Annotated[list[str] | None, typer.Option(help="Web origin whose pages may ask (CORS).")] = None,
    runs_dir: RunsDir = None,
) -> None:
    """Serve a finished run over HTTP until Ctrl-C: reports, boxes and reasoning; a page for readers at /.

    SIGHUP reads the folders again: a new version of an adapter or of the model takes over.
    """
    from boxmed_ray.commands.serve import start

    start(
        _run_folder(run, runs_dir), host, port, None if no_auth else keys, adapter or [], replicas, waiting,
        feedback, feedback_images, origin or [],
    )  # fmt: skip


@keys_app.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="Who will hold it.")],
    per_minute: Annotated[int, typer.Option(min=1, help="Requests that it may make in a minute.")] = 120,
    keys: KeysFile = KEYS,
) -> None:
    """Make a key and print it, once: only its hash is stored."""
    from serve.keys import KeyFile

    print(KeyFile(keys).add(name, per_minute))


@keys_app.command("list")
def keys_list(keys: KeysFile = KEYS) -> None:
    """Who holds keys, since when, and which are revoked."""
    from boxmed_ray.commands.serve import show_keys

    show_keys(keys)


@keys_app.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="As it was added.")], keys: KeysFile = KEYS) -> None:
    """Refuse a key from now on; a service that runs does so within a second."""
    from serve.keys import KeyFile

    KeyFile(keys).revoke(name)
    print(f"revoked {name}")


@app.command(short_help="Write a checkpoint's model as a folder.")
def export(
    run: Annotated[Path, typer.Argument(help="A run: its folder, or its name below the folder of runs.")],
    to: Annotated[Path, typer.Option(help="Folder that gets the model; must not exist.")],
    checkpoint: Annotated[
        str, typer.Option(help="best, last, a number of updates, or merged: the newest model with the adapter in it.")
    ] = "best",
    runs_dir: RunsDir = None,
) -> None:
    """Write the model of a checkpoint of SVR as a folder that transformers and vLLM load."""
    from boxmed_ray.commands.export import export as write

    write(_run_folder(run, runs_dir), to, checkpoint)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run (its newest model), or a model folder.")],
    adapter: Annotated[
        Path | None, typer.Option(help="PEFT folder that writes the reports. Default: of a run, its own.")
    ] = None,
    adapter_for: Annotated[
        str, typer.Option(help="reports: boxes and reasoning are asked of the backbone alone; all: with the adapter.")
    ] = "reports",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. data.root=DIR.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Data and sizes for a model that lies in no run: a recipe or a YAML file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: evaluations/NAME.")] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 1000,
    runs_dir: RunsDir = None,
) -> None:
    """Measure a model on the held-out split: boxes, reasoning, reports, beside baselines, each figure defined.

    Writes evaluation.json and a CSV for each kind; scorers that are not there are listed with the remedy.
    """
    from boxmed_ray.commands.evaluate import evaluate as run

    run(_run_folder(model, runs_dir), adapter, overrides or [], recipe, out, resamples, adapter_for)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Folder that `boxmed evaluate` wrote: of the model held to be better.")],
    second: Annotated[Path, typer.Argument(help="Folder of the other, measured on the same samples.")],
    out: Annotated[Path | None, typer.Option(help="Folder that gets comparison.html and comparison.csv.")] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 1000,
) -> None:
    """Is the first model better? Paired one-tailed Wilcoxon tests with Holm's correction, and bootstrap intervals."""
    from boxmed_ray.commands.evaluate import compare as run

    run(first, second, out, resamples)


@app.command(short_help="Train the variants of a run; print the paper's tables.")
def ablate(
    recipe: Annotated[str, typer.Option(help="A shipped recipe or a YAML file: the reference of every table.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key.")] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(help="4 (stages), 5 (what reports train), adapters; may be repeated. Default: all."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="May be repeated; a table pools its seeds. Default: 0.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs, evaluations and tables.")] = Path("ablations"),
    reuse: Annotated[
        list[Path] | None, typer.Option(help="A run whose finished stages may be taken over; may be repeated.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once. Default: as many as there is room for.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 1000,
    quick: Annotated[
        bool, typer.Option("--quick", help="Sizes of the phantom recipe that only try the machinery.")
    ] = False,
) -> None:
    """Train and measure the variants of a run, side by side where there is room, and print the paper's tables.

    The same command goes on after an interrupt. Stages that variants share are trained once.
    """
    from boxmed_ray.commands.ablate import run

    raise typer.Exit(
        run(recipe, overrides or [], table or [], seed or [0], out, reuse or [], jobs, resamples, quick=quick)
    )


@app.command(short_help="Run a command on a Ray cluster.")
def submit(
    address: Annotated[str, typer.Option(help="The cluster's dashboard: HOST[:PORT] or a URL.")],
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND", help="What to run, after --.")] = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="Folder sent to the cluster. Default: this project, without .venv and runs.")
    ] = None,
    runs_dir: Annotated[
        str | None,
        typer.Option(help="Folder of run folders as the cluster sees it. Default: ./runs here on a local cluster."),
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="Interpreter on the cluster. Default: this one on a local cluster, else python.")
    ] = None,
    variables: Annotated[
        list[str] | None, typer.Option("--env", metavar="NAME[=VALUE]", help="A variable of the job; no secrets.")
    ] = None,
    secrets: Annotated[
        list[str] | None, typer.Option("--secret", metavar="NAME", help="A variable that the cluster itself must have.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Refuse what the cluster lacks before anything is submitted.")] = True,
    attach: Annotated[str | None, typer.Option(metavar="JOB", help="Follow a job that exists.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow the log until the job ends.")] = True,
) -> None:
    """Run a command on a Ray cluster: boxmed submit --address HOST:8265 -- train --recipe NAME.

    Looks first whether the cluster has what the run needs. Follows the log and ends with the command's exit code.
    Ctrl-C leaves the job running: boxmed jobs says how it is.
    """
    from boxmed_ray.commands.submit import submit as run
    from boxmed_ray.submit import Submission

    submission = Submission(
        tuple(command or ()),
        address,
        working_dir,
        runs_dir,
        python,
        tuple(variables or ()),
        tuple(secrets or ()),
        check,
    )
    raise typer.Exit(run(submission, attach=attach, wait=wait))


Address = Annotated[str, typer.Option(help="The cluster's dashboard: HOST[:PORT] or a URL.")]
Job = Annotated[str, typer.Argument(help="As `boxmed jobs list` names it.")]


@jobs_app.command("list")
def list_jobs(address: Address) -> None:
    """Jobs of a cluster, the newest first: state, times, command."""
    from boxmed_ray.commands.jobs import show

    show(address)


@jobs_app.command()
def status(job: Job, address: Address) -> None:
    """How a job is. Exits 0 if it runs or went well, 1 if it failed or was stopped."""
    from boxmed_ray.commands.jobs import status as run

    raise typer.Exit(run(address, job))


@jobs_app.command()
def logs(
    job: Job,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends, with its exit code.")] = False,
) -> None:
    """What a job has printed."""
    from boxmed_ray.commands.jobs import logs as run

    raise typer.Exit(run(address, job, follow))


@jobs_app.command()
def stop(job: Job, address: Address) -> None:
    """Stop a job; a run leaves a checkpoint first, for which it has two minutes."""
    from boxmed_ray.commands.jobs import stop as run

    raise typer.Exit(run(address, job))


@app.command(short_help="Say what this machine or a cluster lacks.")
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Do not try to import the heavy packages.")] = False,
    runs_dir: RunsDir = None,
    remote: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Look at every node of a Ray cluster instead.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="With --remote: what this recipe needs of it.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="With --recipe: override one key.")
    ] = None,
    secrets: Annotated[
        list[str] | None, typer.Option("--secret", metavar="NAME", help="With --remote: a variable it must have.")
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="With --remote: interpreter there. Default: as for `boxmed submit`.")
    ] = None,
) -> None:
    """Say what this machine, or a cluster, has and lacks, and what to do. Exits 1 if something needed is missing."""
    if remote is not None:
        from boxmed_ray.commands.doctor import doctor_of_cluster

        raise typer.Exit(
            doctor_of_cluster(
                remote, recipe, overrides or [], secrets=tuple(secrets or ()), runs_dir=runs_dir, python=python,
                as_json=json,
            )
        )  # fmt: skip
    if recipe or overrides or secrets or python:
        raise ConfigError("--recipe, --set, --secret and --python ask about a cluster: give --remote ADDRESS too")
    from boxmed_ray.commands.doctor import doctor as run

    raise typer.Exit(run(as_json=json, quick=quick, runs_dir=runs_dir))


Scorer = Annotated[
    list[str] | None,
    typer.Option("--scorer", metavar="NAME=PATH", help="Where a scorer lies. Default: below $BOXMED_SCORERS."),
]


@rewards_app.command()
def radcliq(
    features: Annotated[str, typer.Option(help="RadGraph F1, BERTScore, CheXbert similarity, BLEU-2: four numbers.")],
    version: Annotated[str, typer.Option(help="v0 or v1.")] = "v1",
) -> None:
    """RadCliQ of four features; less is better. The number is the last word."""
    from boxmed_ray.commands.rewards import radcliq as run

    run(features, version)


@rewards_app.command()
def score(
    metric: Annotated[str, typer.Option(help="A metric of `boxmed rewards check`, e.g. clinical-lite.")],
    refs: Annotated[Path, typer.Option(help="Reference reports: one a line, or JSON Lines (.jsonl).")],
    hyps: Annotated[Path, typer.Option(help="Reports to score, in the same order.")],
    key: Annotated[str, typer.Option(help="Key of the report in JSON Lines.")] = "report",
    refs_key: Annotated[str | None, typer.Option(help="The same for --refs alone.")] = None,
    scorer: Scorer = None,
) -> None:
    """Score reports against references: one number a line, then the mean."""
    from boxmed_ray.commands.rewards import score as run
    from boxmed_ray.commands.rewards import scorer_paths

    run(metric, refs, hyps, refs_key or key, key, scorer_paths(scorer or []))


@rewards_app.command()
def check(scorer: Scorer = None) -> None:
    """Which metrics are ready, and how to get what the others need."""
    from boxmed_ray.commands.rewards import check as run
    from boxmed_ray.commands.rewards import scorer_paths

    run(scorer_paths(scorer or []))


if __name__ == "__main__":
    main()
