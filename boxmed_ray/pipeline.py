"""A run: the stages of a RunConfig in order, each resumable, from checked data to summary and report.

What lives here: which stage starts from what, and what of a run is done already. What does not: how a
stage works (stages/), the figures (results.py), the maths.

    data -> init -> MCL -> evaluation -> SVR -> evaluation -> adapter -> evaluation -> summary, report
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.shared_gpus import shared_gpus
from boxmed_ray.config import ConfigError, RunConfig
from boxmed_ray.data.concept_map import load_concepts
from boxmed_ray.data.examples import Example, corpus, mcl_examples, report_examples
from boxmed_ray.data.load import Dataset, load_studies
from boxmed_ray.data.mixture import svr_prompts
from boxmed_ray.epochs import with_steps
from boxmed_ray.evaluate.report_page import write_stopped
from boxmed_ray.events import FILE as EVENTS
from boxmed_ray.events import EventWriter
from boxmed_ray.mirror import mirrored
from boxmed_ray.model.hub import local_folder
from boxmed_ray.provenance import cluster_nodes, record
from boxmed_ray.ray_local import ray_session
from boxmed_ray.results import write_results
from boxmed_ray.stages.evaluation import (
    GroundingQuestion,
    ask_grounding,
    ask_reports,
    grounding_questions,
    prompt_of,
    save_records,
    save_reports,
)
from boxmed_ray.stages.rollouts import CPUS_PER_THREAD, rollout_pool
from boxmed_ray.stages.routes import check_rewards
from boxmed_ray.stages.supervised import train_supervised
from boxmed_ray.stages.svr import run_svr
from boxmed_ray.stages.train_loop import Kind
from boxmed_ray.stages.watch import DriftError
from boxmed_ray.trackers import check_trackers, tracked
from boxmed_ray.tracking import MetricsWriter, Progress

CONFIG, METRICS = "config.yaml", "metrics.jsonl"


def run(config: RunConfig, *, resume: bool = False) -> None:
    """Run or go on with a run, and leave summary.json and report.html in its folder, and where ``runs_dir`` says.

    Raises:
        ConfigError, DataError: what cannot run, before anything is trained.
        CheckpointError: a checkpoint cannot be read or written, or the last upload to a URI failed.
        KeyboardInterrupt: interrupted; the stage it came in has left a checkpoint.
    """
    check_rewards(config)
    check_trackers(config)
    with mirrored(config, resume=resume):
        _make_folder(config, resume)
        with tracked(config, config.folder):
            Run(config).go()


def _make_folder(config: RunConfig, resume: bool) -> None:
    try:
        config.folder.mkdir(parents=True, exist_ok=resume)
        part = config.folder / f"{CONFIG}.part"
        part.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        part.replace(config.folder / CONFIG)
    except FileExistsError as error:
        raise ConfigError(
            f"run {config.name!r} exists in {config.folder}; give another --name or --resume it"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{config.folder}: cannot be written ({error.strerror}); set runs_dir to a writable folder"
        ) from error


class Run:
    """One run and its folder.

    Args:
        config: as resolved.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.folder = config.folder.resolve()
        self.events = EventWriter(self.folder / EVENTS)

    def go(self) -> None:
        """All stages that are not done yet."""
        dataset = self._data()
        self.config = with_steps(self.config, dataset.split("train"))
        self._init_model(dataset)
        if not (self._asked(*self.trained, "adapter_off") and self.reports_path.exists()):
            with ray_session(num_cpus=self._cpus()):
                record(self.folder, dataset.hash, cluster_nodes())
                self._train(dataset)
        write_results(self.config, dataset, self.facts, self.folder / "evaluation")

    @property
    def trained(self) -> list[str]:
        """Stages that train the backbone, without those that the config skips."""
        return [name for name in ("mcl", "svr") if name not in self.config.skip]

    def stage(self, name: str) -> Path:
        """Folder of a stage."""
        return self.folder / "stages" / name

    def records_path(self, name: str) -> Path:
        """Grounding records of ``mcl``, ``svr`` or ``adapter_off``."""
        return self.folder / "evaluation" / f"{name}.jsonl"

    @property
    def reports_path(self) -> Path:
        """Generated reports beside their references."""
        return self.folder / "evaluation" / "reports.jsonl"

    def done(self, name: str) -> bool:
        """Whether a stage has ended."""
        return (self.stage(name) / "done.json").is_file()

    def facts(self, name: str) -> dict[str, Any]:
        """What a stage left on record; empty before it ended."""
        path = self.stage(name) / "done.json"
        facts: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return facts

    def mark_done(self, name: str, facts: dict[str, Any]) -> None:
        """Record that a stage has ended."""
        self.stage(name).mkdir(parents=True, exist_ok=True)
        part = self.stage(name) / "done.part"
        part.write_text(json.dumps(facts, indent=1))
        part.replace(self.stage(name) / "done.json")

    @contextmanager
    def timed(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage and mark it done, with the facts put into the dictionary."""
        facts: dict[str, Any] = {}
        began = time.monotonic()
        yield facts
        self.mark_done(name, facts | {"seconds": round(time.monotonic() - began, 2)})

    def _cpus(self) -> float:
        """A private Ray offers what the actors ask for: on a laptop phases take turns on the same cores."""
        r = self.config.resources
        actors = r.rollout_workers.max + r.reward_workers.max + max(r.learner_ranks, r.train_workers)
        return max(float(os.cpu_count() or 1), float(r.threads * actors + 1))

    def _data(self) -> Dataset:
        began = time.monotonic()
        dataset = load_studies(self.config.data, self.config.seed, self.folder / "data")
        known = self.facts("data").get("hash")
        if known is not None and known != dataset.hash:
            raise ConfigError(f"{self.folder}: the data set has changed since this run started; start a new run")
        if known is None:
            self.mark_done("data", {"seconds": round(time.monotonic() - began, 2), "hash": dataset.hash})
        where = f", listed in {self.folder / 'data' / 'skipped.jsonl'}" if dataset.skipped else ""
        log(f"data: {len(dataset.studies)} studies, {len(dataset.skipped)} skipped{where}")
        return dataset

    def _init_model(self, dataset: Dataset) -> None:
        if self.config.model.name_or_path != "tiny" or self.done("init"):
            return
        from boxmed_ray.model.tiny import build_tiny
        from boxmed_ray.model.warmup import warm_up_vision

        config, folder, train = self.config, self.stage("init") / "model", dataset.split("train")
        steps = config.model.warmup_steps
        data, table = config.data, load_concepts(config.data.concept_table)
        joint = config.mcl.joint_share > 0
        words = corpus(train, data.coordinates, data.image_size, joint=joint, table=table)
        with self._writer() as writer, Progress("init", steps) as progress, self.timed("init"):

            def show(step: int, loss: float) -> None:
                writer.write("init", step, {"loss": loss})
                progress.update(step, {"loss": loss})

            build_tiny(config.model, config.data.image_size, words, config.seed, folder)
            warm_up_vision(
                folder,
                train,
                dataset.images.load,
                steps=steps,
                seed=config.seed,
                threads=config.resources.threads,
                on_step=show,
            )

    def _train(self, dataset: Dataset) -> None:
        if "mcl" in self.trained and not self.done("mcl"):
            self._mcl(dataset)
        questions = grounding_questions(dataset.split("test"), self.config)
        if not self._asked(*self.trained):
            with self._pool(dataset, self.backbone, lora_rank=self.config.svr.adapter_rank) as pool:
                if "mcl" in self.trained:
                    self._ask("mcl", pool, questions)
                if "svr" in self.trained:
                    if not self.done("svr"):
                        self._svr(dataset, pool)
                    self._ask("svr", pool, questions)
        if not self.done("adapter"):
            self._adapter(dataset)
        lora = self.stage("adapter") / "adapter" if self.config.adapter.train.adapter_alone else None
        with self._pool(dataset, self.backbone, lora_rank=self.config.adapter.rank if lora else 0) as pool:
            self._ask("adapter_off", pool, questions)
            if lora:
                self._reports(dataset, pool, lora)
        if lora is None:
            with self._pool(dataset, lambda: self.stage("adapter") / "model") as pool:
                self._reports(dataset, pool, None)

    @contextmanager
    def _pool(self, dataset: Dataset, model: Callable[[], Path], lora_rank: int = 0) -> Iterator[Pool]:
        """Rollout workers on a model, for the duration of the block."""
        resources = self.config.resources
        with shared_gpus(resources, CPUS_PER_THREAD * resources.threads):
            pool = rollout_pool(self.config, model, dataset.images, self.events, lora_rank)
            pool.launch()
            try:
                pool.wait_ready()
                yield pool
            finally:
                pool.shutdown()

    def _asked(self, *names: str) -> bool:
        return all(self.records_path(name).exists() for name in names)

    def backbone(self) -> Path:
        """The newest backbone: what rollout workers start from, and what serving serves."""
        name = self.config.model.name_or_path
        for stage in ("svr", "mcl"):
            if self.done(stage):
                return self.stage(stage) / "model"
        return self.stage("init") / "model" if name == "tiny" else local_folder(name)

    def _mcl(self, dataset: Dataset) -> None:
        config = self.config
        examples = mcl_examples(
            dataset.split("train"),
            config.mcl.steps * config.mcl.batch_size,
            config=config.mcl,
            seed=config.seed,
            coordinates=config.data.coordinates,
            side=config.data.image_size,
            table=load_concepts(config.data.concept_table),
        )
        self._supervised("mcl", examples, self.backbone(), dataset.images.cache)

    def _adapter(self, dataset: Dataset) -> None:
        count = self.config.adapter.steps * self.config.adapter.batch_size
        examples = report_examples(dataset.split("train"), count, seed=self.config.seed)
        self._supervised("adapter", examples, self.backbone(), dataset.images.cache)

    def _supervised(self, kind: Kind, examples: Sequence[Example], model: Path, cache: Path | None) -> None:
        steps = self.config.mcl.steps if kind == "mcl" else self.config.adapter.steps
        out = self.stage(kind)
        resume = (out / "checkpoints").is_dir()
        with ExitStack() as stack:
            progress = stack.enter_context(Progress(kind, steps))
            facts = stack.enter_context(self.timed(kind))
            writer: MetricsWriter | None = None

            def show(values: dict[str, Any]) -> None:
                nonlocal writer
                step = values["step"]
                if writer is None:  # all that is told is written anew: what came after a checkpoint is done again
                    writer = stack.enter_context(MetricsWriter.resume(self.folder / METRICS, kind, step - 1))
                writer.write(kind, step, {k: v for k, v in values.items() if k not in {"step", "steps"}})
                progress.update(step, values)

            facts.update(train_supervised(kind, self.config, model, examples, out, show, resume, cache))

    def _svr(self, dataset: Dataset, pool: Pool) -> None:
        config = self.config
        count = config.svr.steps * config.svr.draws
        examples = svr_prompts(dataset.split("train"), count, svr=config.svr, data=config.data, seed=config.seed)
        prompts = [prompt_of(example) for example in examples]
        with self.timed("svr"):
            out, metrics, cache = self.stage("svr"), self.folder / METRICS, dataset.images.cache
            try:
                run_svr(config, self.backbone(), out, prompts, pool, metrics, self.events, cache)
            except DriftError as error:
                write_stopped(self.folder, str(error), metrics)
                raise

    def _ask(self, name: str, pool: Pool, questions: Sequence[GroundingQuestion]) -> None:
        if self._asked(name):
            return
        with self.timed(f"evaluate_{name}"):
            save_records(ask_grounding(pool, questions, self.config), self.records_path(name))

    def _reports(self, dataset: Dataset, pool: Pool, adapter: Path | None) -> None:
        if self.reports_path.exists():
            return
        studies = [study for study in dataset.split("test") if study.report][: self.config.evaluate.images]
        with self.timed("evaluate_reports"):
            lora = str(adapter) if adapter else None
            save_reports(studies, ask_reports(pool, studies, self.config, lora=lora), self.reports_path)

    def _writer(self) -> MetricsWriter:
        return MetricsWriter(self.folder / METRICS)


def log(message: str) -> None:
    """A line for the person who waits, beside the progress bars."""
    print(message, file=sys.stderr, flush=True)
