"""What each process of the multi-rank tests does: every ZeRO stage in turn, on the same groups."""

from __future__ import annotations

import json
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import save_file

from boxmed_ray.actors.learn_batch import kl_penalties, learn_groups, split
from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.model.engine_state import full_state_dict
from tests.actors.learner_cases import config, scored_groups

STAGES = (0, 1, 2, 3)
CHOICES = {
    "zero_stage": 2, "kl_in": "reward", "kl_beta": 0.5, "kl_kind": "k2", "scale": "batch", "ratio": "sequence",
    "aggregation": "sequence", "inner_epochs": 2, "dual_clip": 1.5, "lr": 3e-3,
}  # fmt: skip
"""What the stages are not trained with: what depends on the whole batch, and more than one epoch of it."""
UPDATES = 5
SAVED_AFTER = 2


def groups_of(folder: Path, update: int) -> list:
    """The groups of one update: an odd number, so that ranks get unequal shares."""
    return scored_groups(folder, 5, seed=update)


def learner(folder: Path, rank: int, ranks: int, port: int, **svr: object) -> LearnerRank:
    """A connected rank."""
    made = LearnerRank(config(folder, ranks=ranks, **svr), folder / "init", rank, ranks)
    made.connect(("127.0.0.1", port))
    return made


def learn(rank: LearnerRank, folder: Path, updates: range, micro_tokens: int = 110) -> list[dict]:
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


def run(rank: int, folder: Path, port: int) -> None:
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
    metrics = learn(learner(folder, rank, 2, port, **CHOICES), folder, range(UPDATES))
    if rank == 0:
        (folder / "choices.json").write_text(json.dumps(metrics))
