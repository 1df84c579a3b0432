"""`boxmed ablate`: trains the variants of a run side by side, measures them and prints the tables.

What lives here: starting and following the runs as processes of their own, so many at once as there is room for, and
the tables' files. What does not: which variants there are and what they share (ablation.py), a run (pipeline.py),
measuring one (commands/evaluate.py), the cells of a table (evaluate/variants.py).

The same command goes on after an interrupt: finished runs and evaluations stand, unfinished runs are resumed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from boxmed_ray.ablation import QUICK, TITLES, Condition, Table, Variant, is_done, plan, rows_of, stage_keys, take_over
from boxmed_ray.config import ConfigError, RunConfig, load_config, parse_config
from boxmed_ray.interrupt import Interrupt, interruptible
from boxmed_ray.ray_local import inside_cluster

_POLL_S = 1.0
_STOP_S = 300.0
"""Time a run gets for its checkpoint after an interrupt."""
_MAY_DIFFER = {"resources", "tracking", "runs_dir", "work_dir"}
_CONFIG, _SUMMARY, _EVALUATION = "config.yaml", "summary.json", "evaluation.json"


class AblationError(RuntimeError):
    """Runs of an ablation failed; the message names their logs."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `boxmed ablate` was told.

    Attributes:
        tables: which ones.
        seeds: of the runs; a table pools them.
        folder: of the ablation; gets ``runs``, ``evaluations`` and the tables.
        reuse: folders of runs whose finished stages may be taken over, beside those of the ablation.
        jobs: runs at once; None for as many as there is room for.
        resamples: of the bootstrap.
    """

    tables: Sequence[Table]
    seeds: Sequence[int]
    folder: Path
    reuse: Sequence[Path] = ()
    jobs: int | None = None
    resamples: int = 1000


def run(
    recipe: str,
    overrides: Sequence[str],
    tables: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    reuse: Sequence[Path],
    jobs: int | None,
    resamples: int,
    *,
    quick: bool,
) -> int:
    """Read the options, do the ablation; the exit code (0, or 128 + signal after an interrupt).

    Raises:
        ConfigError: a table that there is none of, or as ``ablate``.
        AblationError: as ``ablate``.
    """
    wrong = [table for table in tables if table not in TITLES]
    if wrong:
        raise ConfigError(f"--table {wrong[0]}: there is none; use {', '.join(TITLES)}")
    chosen: list[Table] = [table for table in TITLES if not tables or table in tables]
    interrupt = Interrupt()
    try:
        with interruptible(interrupt):
            options = Options(chosen, list(dict.fromkeys(seeds)), out.resolve(), reuse, jobs, resamples)
            ablate(recipe, overrides, options, quick=quick)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return interrupt.exit_code
    return 0


def ablate(recipe: str, overrides: Sequence[str], options: Options, *, quick: bool = False) -> None:
    """Train, measure, print and write the tables.

    Raises:
        ConfigError: the recipe cannot run or is itself a variant.
        AblationError: a run failed; the others have been finished.
        KeyboardInterrupt: interrupted; every run has been given time for its checkpoint.
    """
    runs_dir = options.folder / "runs"
    config = load_config(recipe, [*(QUICK if quick else ()), *overrides, f"runs_dir={str(runs_dir)!r}"])
    variants = plan(config, options.tables, options.seeds)
    Ablation(options, variants, options.jobs or room_for(config)).run()
    write_tables(config, options)


def room_for(config: RunConfig) -> int:
    """How many runs fit beside each other: on the cluster that is given, or on this machine; one at least."""
    r = config.resources
    trainers = max(r.learner_ranks, r.train_workers)
    cpus = r.threads * (r.rollout_workers.max + r.reward_workers.max + trainers) + 1
    gpus = r.gpus_per_learner * trainers + r.gpus_per_rollout * r.rollout_workers.max
    have = _cluster_resources() if inside_cluster() else {"CPU": float(os.cpu_count() or 1)}
    fits = have.get("CPU", 0) / cpus
    if gpus and inside_cluster():
        fits = min(fits, have.get("GPU", 0) / gpus)
    return max(1, int(fits))


def _cluster_resources() -> dict[str, float]:
    import ray

    from boxmed_ray.ray_local import ray_session

    with ray_session():
        return {name: float(amount) for name, amount in ray.cluster_resources().items()}


@dataclass
class _Job:
    """A variant that is being worked on: the process and what is left to start after it."""

    variant: Variant
    process: subprocess.Popen[bytes]
    left: list[list[str]] = field(default_factory=list)


class Ablation:
    """All runs of an ablation.

    Args:
        options: of the command.
        variants: in the order in which they start.
        jobs: at once.
    """

    def __init__(self, options: Options, variants: Sequence[Variant], jobs: int) -> None:
        self._options, self._jobs = options, jobs
        self._pending = list(variants)
        self._running: list[_Job] = []
        self._failed: list[Path] = []

    def run(self) -> None:
        """Until every variant is trained and measured; raises as ``ablate`` does."""
        try:
            while self._pending or self._running:
                self._start_those_that_can()
                time.sleep(_POLL_S)
                for job in list(self._running):
                    self._look_after(job)
        except BaseException:
            self._stop()
            raise
        if self._failed:
            logs = ", ".join(str(path) for path in self._failed)
            raise AblationError(
                f"{len(self._failed)} runs failed; see {logs}, mend it, and give the same command again"
            )

    def _start_those_that_can(self) -> None:
        for variant in list(self._pending):
            if len(self._running) >= self._jobs:
                return
            others = [*self._options.reuse, *_folders(self._options.folder / "runs", but=variant.config.folder)]
            steps = self._steps(variant)
            if not steps:
                self._pending.remove(variant)
            elif not self._is_being_done(variant):
                _make_folder(variant.config)
                taken = take_over(variant.config, others)
                _say(f"{variant.config.name}: {'takes ' + ', '.join(taken) if taken else 'starts'}")
                self._pending.remove(variant)
                self._running.append(_Job(variant, self._spawn(variant, steps[0]), steps[1:]))

    def _is_being_done(self, variant: Variant) -> bool:
        """Whether a run under way is to do a stage that this one needs too: waiting is cheaper than doing it twice."""
        own = variant.config.folder
        needs = {key for stage, key in stage_keys(variant.config).items() if not is_done(own, stage)}
        return any(
            key in needs and not is_done(job.variant.config.folder, stage)
            for job in self._running
            for stage, key in stage_keys(job.variant.config).items()
        )

    def _steps(self, variant: Variant) -> list[list[str]]:
        """Commands that are left for a variant."""
        config, run, steps = variant.config, str(variant.config.folder), []
        if not (config.folder / _SUMMARY).is_file():
            steps.append(["train", "--resume", config.name, "--runs-dir", config.runs_dir])
        for condition in variant.conditions:
            out = evaluation_folder(self._options.folder, variant.variant, config.seed, condition)
            if (out / _EVALUATION).is_file():
                continue
            merged = config.folder / "merged"
            if condition == "merged" and not merged.is_dir():
                steps.append(["export", run, "--to", str(merged), "--checkpoint", "merged"])
            what = str(merged) if condition == "merged" else run
            asked = ["--adapter-for", "all"] if condition == "on" else []
            steps.append(["evaluate", what, "--out", str(out), "--resamples", str(self._options.resamples), *asked])
        return steps

    def _spawn(self, variant: Variant, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
        with _log(variant).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "boxmed_ray.cli", *arguments], stdout=log, stderr=log, start_new_session=True
            )

    def _look_after(self, job: _Job) -> None:
        code = job.process.poll()
        if code is None:
            return
        if code == 0 and job.left:
            job.process = self._spawn(job.variant, job.left.pop(0))
            return
        self._running.remove(job)
        _say(f"{job.variant.config.name}: {'done' if code == 0 else f'failed ({code}), see {_log(job.variant)}'}")
        if code != 0:
            self._failed.append(_log(job.variant))

    def _stop(self) -> None:
        """Let every run leave its checkpoint."""
        for job in self._running:
            job.process.send_signal(signal.SIGINT)
        for job in self._running:
            try:
                job.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                job.process.kill()


def evaluation_folder(folder: Path, variant: str, seed: int, condition: Condition) -> Path:
    """Where the evaluation of a variant lies."""
    return folder / "evaluations" / f"{variant}-{condition}-s{seed}"


def write_tables(config: RunConfig, options: Options) -> None:
    """Print every table, and write it as CSV and Markdown.

    Raises:
        ConfigError: an evaluation cannot be read.
    """
    from rich.console import Console
    from rich.table import Table as RichTable

    from boxmed_ray.evaluate.evaluation import read_evaluation
    from boxmed_ray.evaluate.variants import (
        baseline_rows,
        pool_seeds,
        table_csv,
        table_headings,
        table_markdown,
        table_words,
        variant_table,
    )

    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in options.tables:
        read = {
            row.words: [
                read_evaluation(evaluation_folder(options.folder, row.variant, seed, row.condition))
                for seed in options.seeds
            ]
            for row in rows_of(table, config)
        }
        samples = {words: pool_seeds([one for _, one in pairs]) for words, pairs in read.items()}
        name, reference = samples.popitem()
        found = baseline_rows([evaluation for evaluation, _ in read[name]])
        found |= variant_table(reference, samples, name, options.resamples)
        shown = RichTable(title=f"{TITLES[table]}; seeds {', '.join(map(str, options.seeds))}", title_justify="left")
        headings = table_headings(found)
        for heading in ("", *headings):
            shown.add_column(heading, justify="right" if heading else "left")
        for variant, row in found.items():
            shown.add_row(variant, *table_words(row, headings))
        console.print(shown)
        (options.folder / f"table-{table}.csv").write_text(table_csv(found), encoding="utf-8")
        (options.folder / f"table-{table}.md").write_text(table_markdown(found), encoding="utf-8")
    console.print(
        "* p < .05, ** p < .01: the last row is better (one-tailed Wilcoxon signed-rank, Holm over the table); "
        f"tables and intervals in {options.folder}",
        highlight=False,
    )


def _make_folder(config: RunConfig) -> None:
    """A run that `boxmed train --resume` finds; one that is there must be the same."""
    path = config.folder / _CONFIG
    if not path.is_file():
        config.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        part.replace(path)
        return
    known = parse_config(path.read_text(), str(path))
    apart = [name for name, value in config if name not in _MAY_DIFFER and getattr(known, name) != value]
    if apart:
        raise ConfigError(
            f"{config.folder}: was started with another {', '.join(apart)}; give the ablation another --out"
        )


def _folders(runs: Path, but: Path) -> list[Path]:
    return sorted(path.parent for path in runs.glob(f"*/{_CONFIG}") if path.parent != but)


def _log(variant: Variant) -> Path:
    return variant.config.folder / "ablation.log"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
