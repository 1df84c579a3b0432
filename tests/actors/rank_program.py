"""What each process of the multi-rank tests does: ZeRO stages in turn, on the same groups."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from boxmed_ray.actors.learn_batch import LearnBatch, kl_penalties, learn_groups, split
from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.model.engine_state import full_state_dict
from tests.actors.learner_cases import config, resume, scored_groups

STAGES = (0, 1, 2, 3)
SHARDED = (1, 2, 3)
"""Stages that four ranks train: what differs from two ranks is how parameters are cut."""
GROUPS = (5, 5, 5, 3, 5)
"""Groups of each update: never the same number for every rank, and once too few for four."""
UPDATES = len(GROUPS)
CHOICES = {
    "zero_stage": 2, "kl_in": "reward", "kl_beta": 0.5, "kl_kind": "k2", "scale": "batch", "ratio": "sequence",
    "aggregation": "sequence", "inner_epochs": 2, "dual_clip": 1.5, "lr": 3e-3,
}  # fmt: skip
"""What the stages are not trained with: what depends on the whole batch, and more than one epoch of it."""
SAVED_AFTER = 2
BY_ONE_THEN_TWO = (2, 3)
"""Stages in which two ranks also go on with a checkpoint of one."""
MICRO_TOKENS = 110
"""Two groups a micro-batch, or so."""
LR = 5e-4
"""Adam's first step is LR whatever the gradient's size, so where that is near 0 its rounding is a share of LR."""


def groups_of(folder: Path, update: int) -> list:
    """The groups of one update."""
    return scored_groups(folder, GROUPS[update], seed=update)


def batches_of(folder: Path, update: int, ranks: int) -> list[LearnBatch]:
    """What each of ``ranks`` gets in one update."""
    return split(learn_groups(groups_of(folder, update), "group"), ranks, MICRO_TOKENS)


def learner(folder: Path, rank: int, ranks: int, port: int, **svr: object) -> LearnerRank:
    """A connected rank."""
    made = LearnerRank(config(folder, ranks=ranks, **{"lr": LR, **svr}), folder / "init", rank, ranks)
    made.connect(("127.0.0.1", port))
    return made


def learn(rank: LearnerRank, folder: Path, updates: range, micro_tokens: int = MICRO_TOKENS) -> list[dict]:
    """Do ``updates`` as the driver would; metrics of each."""
    settings, metrics = rank._settings, []
    for update in updates:
        scored, penalties = groups_of(folder, update), None
        batches = split(learn_groups(scored, settings.scale), rank.world_size, micro_tokens)
        if settings.kl_in == "reward":
            parts: list = [None] * rank.world_size
            dist.all_gather_object(parts, rank.measure_kl(batches[rank.rank]))
            penalties = kl_penalties(scored, {n: kl for part in parts for n, kl in part.items()}, settings.kl_beta)
            batches = split(learn_groups(scored, settings.scale, penalties), rank.world_size, micro_tokens)
        metrics.append(rank.learn(batches[rank.rank]))
    return metrics


def run_two(rank: int, folder: Path, port: int) -> None:
    """Train at each stage, checkpointing on the way; rank 0 leaves the parameters it ends with."""
    for stage in STAGES:
        made = learner(folder, rank, 2, port, zero_stage=stage)
        learn(made, folder, range(SAVED_AFTER))
        torch.manual_seed(rank)
        made.save_checkpoint(folder / f"checkpoints-{stage}", SAVED_AFTER, {"position": SAVED_AFTER})
        drawn = torch.rand(3)
        learn(made, folder, range(SAVED_AFTER, UPDATES))
        state = full_state_dict(made._engine.module, rank)
        if rank == 0:
            save_file(state, folder / f"two-ranks-{stage}.safetensors")
        resume(made, folder / f"checkpoints-{stage}")
        assert torch.equal(torch.rand(3), drawn)  # every rank has its own generator back
        learn(made, folder, range(SAVED_AFTER, UPDATES))
        again = full_state_dict(made._engine.module, rank)
        if rank == 0:
            save_file(again, folder / f"resumed-{stage}.safetensors")
    for stage in BY_ONE_THEN_TWO:
        made = learner(folder, rank, 2, port, zero_stage=stage)
        resume(made, folder / f"checkpoints-of-one-{stage}")
        learn(made, folder, range(SAVED_AFTER, UPDATES))
        state = full_state_dict(made._engine.module, rank)
        if rank == 0:
            save_file(state, folder / f"one-then-two-{stage}.safetensors")
    metrics = learn(learner(folder, rank, 2, port, **CHOICES), folder, range(UPDATES))
    if rank == 0:
        (folder / "choices.json").write_text(json.dumps(metrics))


def run_four(rank: int, folder: Path, port: int) -> None:
    """Train at each sharded stage; rank 0 leaves the parameters and metrics it ends with."""
    for stage in SHARDED:
        made = learner(folder, rank, 4, port, zero_stage=stage)
        metrics = learn(made, folder, range(UPDATES))
        state = full_state_dict(made._engine.module, rank)
        if rank == 0:
            save_file(state, folder / f"four-ranks-{stage}.safetensors")
            torch.save([update["loss"] for update in metrics], folder / f"four-losses-{stage}.pt")
