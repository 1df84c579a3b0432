"""What each process of the multi-rank tests does: ZeRO stages in turn, on the same groups."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from boxmed_ray.actors.learn_batch import LearnBatch, learn_groups, split
from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.model.engine_state import full_state_dict
from tests.actors.learner_cases import config, scored_groups

STAGES = (0, 1, 2, 3)
SHARDED = (1, 2, 3)
"""Stages that four ranks train: what differs from two ranks is how parameters are cut."""
GROUPS = (5, 5, 5, 3, 5)
"""Groups of each update: never the same number for every rank, and once too few for four."""
UPDATES = len(GROUPS)
SAVED_AFTER = 2
MICRO_GROUPS = 2
LR = 5e-4
"""Adam's first step is LR whatever the gradient's size, so where that is near 0 its rounding is a share of LR."""


def groups_of(folder: Path, update: int) -> list:
    """The groups of one update."""
    return scored_groups(folder, GROUPS[update], seed=update)


def batches_of(folder: Path, update: int, ranks: int) -> list[LearnBatch]:
    """What each of ``ranks`` gets in one update."""
    return split(learn_groups(groups_of(folder, update), "group"), ranks, MICRO_GROUPS)


def learner(folder: Path, rank: int, ranks: int, port: int, **svr: object) -> LearnerRank:
    """A connected rank."""
    made = LearnerRank(config(folder, ranks=ranks, lr=LR, **svr), folder / "init", rank, ranks)
    made.connect(("127.0.0.1", port))
    return made


def learn(rank: LearnerRank, folder: Path, updates: range) -> list[dict]:
    """Do ``updates``; metrics of each."""
    metrics = []
    for update in updates:
        metrics.append(rank.learn(batches_of(folder, update, rank.world_size)[rank.rank]))
    return metrics


def run_two(rank: int, folder: Path, port: int) -> None:
    """Train at each stage, checkpointing on the way; rank 0 leaves the parameters it ends with."""
    for stage in STAGES:
        made = learner(folder, rank, 2, port, zero_stage=stage)
        learn(made, folder, range(SAVED_AFTER))
        made.save_checkpoint(folder / f"checkpoints-{stage}", SAVED_AFTER, {"position": SAVED_AFTER})
        learn(made, folder, range(SAVED_AFTER, UPDATES))
        state = full_state_dict(made._engine.module, rank)
        if rank == 0:
            save_file(state, folder / f"two-ranks-{stage}.safetensors")
        assert made.load_checkpoint(folder / f"checkpoints-{stage}") is not None
        learn(made, folder, range(SAVED_AFTER, UPDATES))
        again = full_state_dict(made._engine.module, rank)
        if rank == 0:
            save_file(again, folder / f"resumed-{stage}.safetensors")


def run_four(rank: int, folder: Path, port: int) -> None:
    """Train at each sharded stage; rank 0 leaves the parameters and metrics it ends with."""
    for stage in SHARDED:
        made = learner(folder, rank, 4, port, zero_stage=stage)
        metrics = learn(made, folder, range(UPDATES))
        state = full_state_dict(made._engine.module, rank)
        if rank == 0:
            save_file(state, folder / f"four-ranks-{stage}.safetensors")
            torch.save([update["loss"] for update in metrics], folder / f"four-losses-{stage}.pt")
