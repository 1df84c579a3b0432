"""What each process of the multi-rank tests does: every ZeRO stage in turn, on the same groups."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from boxmed_ray.actors.learn_batch import learn_groups, split
from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.model.engine_state import full_state_dict
from tests.actors.learner_cases import config, scored_groups

STAGES = (0, 1, 2, 3)
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


def learn(rank: LearnerRank, folder: Path, updates: range) -> list[dict]:
    """Do ``updates``; metrics of each."""
    metrics = []
    for update in updates:
        batches = split(learn_groups(groups_of(folder, update), "group"), rank.world_size, 2)
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
