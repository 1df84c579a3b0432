"""A tiny supervised stage: images, rows and a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.config import (
    AdapterConfig,
    DataConfig,
    MCLConfig,
    ModelConfig,
    ResourcesConfig,
    RunConfig,
    TrainableConfig,
)
from boxmed_ray.data.examples import Example
from boxmed_ray.data.prompts import Task, instruction
from boxmed_ray.data.study import Study
from boxmed_ray.model.tiny import build_tiny
from boxmed_ray.stages.train_loop import CHECKPOINTS, Job, Kind, Row

PHRASES = ("Opacity in the left lung.", "Cardiomegaly.", "Right pleural effusion.")


def config(folder: Path, *, workers: int = 1, train: TrainableConfig | None = None, **stage: Any) -> RunConfig:
    """A run of the smallest model; ``stage`` overrides fields of both supervised stages, ``train`` what MCL trains."""
    settings = {"steps": 8, "batch_size": 4, "warmup_steps": 2, "lr": 3e-3, "checkpoint_every": 3} | stage
    return RunConfig(
        name="tiny",
        runs_dir=folder,
        data=DataConfig(image_size=56),
        model=ModelConfig(hidden_size=64, layers=2, vision_hidden_size=32, vision_layers=1, vocabulary=320),
        mcl=MCLConfig(train=train or TrainableConfig(), **settings),
        adapter=AdapterConfig(**settings),
        resources=ResourcesConfig(train_workers=workers),
    )


def backbone(config: RunConfig, folder: Path) -> Path:
    """Build the model that the stages start from."""
    build_tiny(config.model, config.data.image_size, [*PHRASES, "[123, 456, 789, 0] none"], 0, folder / "init")
    return folder / "init"


def examples(folder: Path, count: int = 10) -> list[Example]:
    """Examples of different lengths about different images."""
    rng = np.random.default_rng(0)
    return [_example(folder, rng, index) for index in range(count)]


def _example(folder: Path, rng: np.random.Generator, index: int) -> Example:
    path = folder / f"{index}.png"
    Image.fromarray(rng.integers(0, 256, (56, 56), dtype=np.uint8)).save(path)
    study = Study(id=str(index), patient_id=str(index), image=path, width=56, height=56, source="test")
    phrase = PHRASES[index % 3]
    answer = ", ".join(str(rng.integers(1000)) for _ in range(4))
    response = f"<think>{'lung ' * int(rng.integers(0, 6))}</think><answer>[{answer}]</answer>"
    return Example(str(index), Task.GROUND, phrase, instruction(Task.GROUND, phrase), response, study)


def rows(made: list[Example]) -> list[Row]:
    """The examples as workers get them."""
    return [Row(str(e.study.image), e.task.value, e.phrase, e.response) for e in made]


def job(kind: Kind, config: RunConfig, model: Path, out: Path, made: list[Example]) -> Job:
    """A job in a folder of its own, which goes on behind the newest checkpoint there."""
    out.mkdir(parents=True, exist_ok=True)
    return Job(kind, config, model, out, rows(made), CheckpointStore(out / CHECKPOINTS).latest())
