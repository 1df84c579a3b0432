"""Ablations: the variants of a run, and which of their stages another run has done already.

What lives here: tables 4 and 5 of arXiv 2504.18453 and the comparison of adapters as variants of one config, the
content of a stage as a digest, and taking over a stage that is done. What does not: starting runs (commands/ablate.py),
the stages (pipeline.py), figures and tests (evaluate/variants.py).

A stage is decided by the parts of the config that it and those before it read, the seed and the version; runs that
agree in them share it, whichever is the first to do it. Where a run runs (``resources``) does not count, as for a
resume.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from boxmed_ray import __version__
from boxmed_ray.config import ConfigError, RunConfig, parse_config

_NOT_OF_ALL_STAGES: Final = {
    "name", "runs_dir", "work_dir", "resources", "skip", "mcl", "svr", "scorers", "adapter", "evaluate", "tracking",
}  # fmt: skip
"""Parts of a config that decide nothing, or only some stages."""

Table = Literal["4", "5", "adapters"]
Condition = Literal["off", "on", "merged"]
"""Of the adapter while boxes and reasoning are asked; reports are written with it in any case."""

REFERENCE: Final = "full"
_TUNED: Final = ("vision_tower", "projector", "language_model")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: its words, the variant that it shows, and how that is asked."""

    words: str
    variant: str
    condition: Condition = "off"


TITLES: Final[Mapping[Table, str]] = {
    "4": "Which stages train the backbone (arXiv 2504.18453, table 4)",
    "5": "What is trained on reports (arXiv 2504.18453, table 5)",
    "adapters": "What an adapter or full fine-tuning on reports leaves of boxes and reasoning",
}
_ROWS: Final[Mapping[Table, tuple[Row, ...]]] = {
    "4": (
        Row("w/o MCL & SVR", "no-mcl-svr"),
        Row("w/o SVR", "no-svr"),
        Row("w/o MCL", "no-mcl"),
        Row("BoxMed-RL", REFERENCE),
    ),
    "5": (
        Row("vision tower", "vision"),
        Row("projector", "projector"),
        Row("vision tower, adapter", "vision-lora"),
        Row("projector, adapter", "projector-lora"),
        Row("adapter", REFERENCE),
    ),
    "adapters": (
        Row("LoRA r = 4, on", "rank-4", "on"),
        Row("LoRA r = 8, on", "rank-8", "on"),
        Row("LoRA r = 16, on", "rank-16", "on"),
        Row("full fine-tuning", "full-tuning"),
        Row("adapter on", REFERENCE, "on"),
        Row("adapter merged", REFERENCE, "merged"),
        Row("adapter off", REFERENCE),
    ),
}
"""The last row of a table is the reference that the others are tested against."""

QUICK: Final = (
    "data.train_studies=64", "data.test_studies=12", "model.hidden_size=64", "model.layers=2",
    "model.vision_hidden_size=64", "model.vision_layers=1", "model.warmup_steps=5", "mcl.steps=6", "mcl.batch_size=8",
    "mcl.warmup_steps=1", "svr.steps=2", "svr.prompts_per_step=4", "svr.max_new_tokens=16", "adapter.steps=3",
    "adapter.batch_size=4", "adapter.warmup_steps=1", "evaluate.images=8", "evaluate.report_tokens=16",
    "evaluate.concept_tokens=16", "resources.train_workers=1", "resources.learner_ranks=1",
    "resources.rollout_workers=1",
)  # fmt: skip
"""Overrides of the phantom recipe that make its figures worthless and its run a minute."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One run of an ablation: its variant, its config, which has a name of its own, and how it is asked."""

    variant: str
    config: RunConfig
    conditions: tuple[Condition, ...]


def rows_of(table: Table, config: RunConfig) -> tuple[Row, ...]:
    """The rows of a table, without the rank that is the config's own: that is the reference's."""
    return tuple(row for row in _ROWS[table] if _changes(row.variant, config) is not None)


def plan(config: RunConfig, tables: Sequence[Table], seeds: Sequence[int]) -> list[Variant]:
    """The runs that the tables need, each once, the reference of each seed first.

    Raises:
        ConfigError: the config is itself a variant.
    """
    if config.skip or not config.adapter.train.adapter_alone:
        raise ConfigError("skip, adapter.lora and adapter.train_also are what an ablation varies; leave them out")
    rows = [row for table in tables for row in rows_of(table, config)]
    names = dict.fromkeys([REFERENCE, *(row.variant for row in rows)])
    runs = []
    for seed in seeds:
        for name in names:
            conditions = dict.fromkeys(row.condition for row in rows if row.variant == name)
            update = {**(_changes(name, config) or {}), "seed": seed, "name": f"{name}-s{seed}"}
            runs.append(Variant(name, config.model_copy(update=update), tuple(conditions)))
    return runs


def _changes(name: str, config: RunConfig) -> dict[str, Any] | None:
    """What a variant changes in the config; None where that is nothing."""
    adapter = config.adapter
    if name.startswith("no-"):
        return {"skip": tuple(name.removeprefix("no-").split("-"))}
    if name.startswith("rank-"):
        rank = int(name.removeprefix("rank-"))
        if rank == adapter.rank:
            return None
        alpha = max(1, round(adapter.alpha * rank / adapter.rank))  # the product is scaled by alpha / r
        return {"adapter": adapter.model_copy(update={"rank": rank, "alpha": alpha})}
    if name == REFERENCE:
        return {}
    parts = {"vision": _TUNED[:1], "projector": _TUNED[1:2], "full": _TUNED}[name.partition("-")[0]]
    # Parts of the backbone learn at MCL's rate, at which all of it was trained; LoRA's may be far above it.
    update = {"lora": name.endswith("-lora"), "train_also": parts, "lr": min(adapter.lr, config.mcl.lr)}
    return {"adapter": adapter.model_copy(update=update)}


def stage_keys(config: RunConfig) -> dict[str, str]:
    """Stage → digest of all that decides it, of the stages that train the backbone and that are not skipped."""
    parts: list[Any] = [__version__, config.model_dump(mode="json", exclude=_NOT_OF_ALL_STAGES)]
    # Not what is trained, but a stage comes with the answers that it was measured by.
    parts.append(config.evaluate.model_dump(mode="json", include={"images", "temperature"}))
    keys = {"init": _digest(parts)} if config.model.name_or_path == "tiny" else {}
    for stage, sections in (("mcl", ("mcl",)), ("svr", ("svr", "scorers"))):
        if stage not in config.skip:
            parts.append([stage, *(_dump(config, section) for section in sections)])
            keys[stage] = _digest(parts)
    return keys


def done_stages(folder: Path) -> dict[str, Path]:
    """Key → folder of every stage that a run has done; empty for a folder that is no run of this version."""
    try:
        config = parse_config((folder / "config.yaml").read_text(), str(folder))
    except (OSError, ConfigError):
        return {}
    keys = stage_keys(config)
    return {
        key: folder / "stages" / stage
        for stage, key in keys.items()
        if (folder / "stages" / stage / "done.json").is_file() and _measured(folder, stage)
    }


def take_over(config: RunConfig, others: Iterable[Path]) -> list[str]:
    """Put every stage that another run has done into the folder of ``config``; the names of those it took.

    Files are hard links where the file system has them: nothing is copied, and either run may be deleted.
    """
    found = {key: stage for other in others for key, stage in done_stages(other).items()}
    taken = []
    for stage, key in stage_keys(config).items():
        target, source = config.folder / "stages" / stage, found.get(key)
        if source is None or target.exists():
            continue
        run = source.parent.parent
        _link_tree(run / "data", config.folder / "data")
        records = run / "evaluation" / f"{stage}.jsonl"
        if records.is_file():
            target_records = config.folder / "evaluation" / records.name
            target_records.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(records, target_records)
        _copy_metrics(run / "metrics.jsonl", config.folder / "metrics.jsonl", stage)
        _link_tree(source, target)
        taken.append(stage)
    return taken


def _measured(folder: Path, stage: str) -> bool:
    return stage == "init" or (folder / "evaluation" / f"{stage}.jsonl").is_file()


def _link_tree(source: Path, target: Path) -> None:
    if target.exists() or not source.is_dir():
        return
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, part, copy_function=_link, ignore=shutil.ignore_patterns("checkpoints"))
    part.rename(target)


def _link(source: str, target: str) -> None:
    if source.endswith(".jsonl"):  # may be written anew in place
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _copy_metrics(source: Path, target: Path, stage: str) -> None:
    """The lines of one stage, for the curves of the run's page."""
    if source.is_file():
        lines = [line for line in source.read_text().splitlines() if line and json.loads(line).get("stage") == stage]
        with target.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)


def _dump(config: RunConfig, section: str) -> Any:
    return getattr(config, section).model_dump(mode="json")


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
