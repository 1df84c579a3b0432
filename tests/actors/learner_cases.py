"""A tiny run for the learner's tests: a model folder, images, and scored groups without a sampler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.actors.types import Group, Prompt, Rollout, ScoredGroup
from boxmed_ray.checkpoint import Checkpoint, CheckpointStore
from boxmed_ray.config import DataConfig, ModelConfig, ResourcesConfig, RunConfig, SVRConfig
from boxmed_ray.data.prompts import Task
from boxmed_ray.model.tiny import build_tiny

PROMPT_TOKENS = 20
PHRASES = ("Opacity in the left lung.", "Cardiomegaly.", "Right pleural effusion.")


def config(folder: Path, *, ranks: int = 1, gradient_checkpointing: bool = False, **svr: Any) -> RunConfig:
    """A run of the smallest model; ``svr`` overrides fields of SVRConfig."""
    settings = {"steps": 10, "warmup_steps": 0, "group_size": 4, "micro_tokens": 110, "lr": 1e-3} | svr
    return RunConfig(
        name="learner",
        runs_dir=folder,
        data=DataConfig(image_size=56),
        model=ModelConfig(
            hidden_size=64,
            layers=2,
            vision_hidden_size=32,
            vision_layers=1,
            vocabulary=320,
            gradient_checkpointing=gradient_checkpointing,
        ),
        svr=SVRConfig(**settings),
        resources=ResourcesConfig(learner_ranks=ranks, phase_timeout_s=120),
    )


def model_folder(config: RunConfig, folder: Path) -> Path:
    """Build the policy of ``config`` below ``folder``."""
    target = folder / "init"
    build_tiny(config.model, config.data.image_size, [*PHRASES, "Locate in this chest X-ray: [123, 456]"], 0, target)
    return target


def scored_groups(folder: Path, count: int, *, seed: int = 0, responses: int = 4) -> list[ScoredGroup]:
    """Groups of random tokens, lengths and rewards about random images."""
    rng = np.random.default_rng(seed)
    return [_scored(folder, rng, f"{seed}-{index}", responses) for index in range(count)]


def _scored(folder: Path, rng: np.random.Generator, name: str, responses: int) -> ScoredGroup:
    path = folder / f"{name}.png"
    pixels = rng.integers(0, 256, (56, 56), dtype=np.uint8)
    if not path.exists():  # ranks ask for the same groups at the same time
        Image.fromarray(pixels).save(path)
    phrase = PHRASES[int(rng.integers(len(PHRASES)))]
    prompt = Prompt(name, Task.GROUND, phrase, name, str(path), 56, 56)
    rollouts = tuple(_rollout(rng) for _ in range(responses))
    return ScoredGroup(Group(prompt, rollouts, PROMPT_TOKENS), rng.random(responses).astype(np.float32))


def _rollout(rng: np.random.Generator) -> Rollout:
    length = int(rng.integers(1, 12))
    ids = rng.integers(20, 250, length).astype(np.int64)
    return Rollout(ids, rng.uniform(-6, -5, length).astype(np.float32), "stop", 0, "")


def resume(rank: LearnerRank, folder: Path) -> Checkpoint:
    """Bring the rank to the newest checkpoint of a store, as the driver does."""
    found = CheckpointStore(folder).latest()
    assert found is not None
    rank.load_checkpoint(found.folder)
    return found


def lengths(groups: Sequence[ScoredGroup]) -> list[int]:
    """Tokens of every response."""
    return [len(rollout.token_ids) for group in groups for rollout in group.group.rollouts]
