"""What each process of the two-rank test does: LoRA under ZeRO, learned, pushed, saved and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from boxmed_ray.actors.learn_batch import learn_groups, split
from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.config import LoraConfig, TrainableConfig
from tests.actors import rank_program
from tests.actors.learner_cases import scored_groups

STAGES = (2, 3)
GROUPS = (5, 1, 5)
"""By update. Of a single group the second of two ranks has none, and must still take part in every pass."""
UPDATES = len(GROUPS)
SAVED_AFTER = 1
LR = 1e-3

LORA_ALONE = TrainableConfig(
    language_model=False, projector=False, vision_tower=False, lora=LoraConfig(rank=4, alpha=16)
)
LORA_AND_PROJECTOR = TrainableConfig(vision_tower=False, lora=LoraConfig(rank=4, alpha=16))
"""The language model is switched on, and frozen because it has LoRA."""


def groups_of(folder: Path, update: int) -> list[Any]:
    """The groups of one update."""
    return scored_groups(folder, GROUPS[update], seed=update)


def learn(rank: LearnerRank, folder: Path, *updates: int) -> list[dict[str, Any]]:
    """Do ``updates``; metrics of each."""
    metrics = []
    for update in updates:
        batches = split(learn_groups(groups_of(folder, update), "group"), rank.world_size, rank_program.MICRO_TOKENS)
        metrics.append(rank.learn(batches[rank.rank]))
    return metrics


def run(rank: int, folder: Path, port: int) -> None:
    """Train LoRA at each stage; rank 0 leaves what it would push, beside the model that the ranks save together."""
    from boxmed_ray.actors.weight_source import ModuleWeights

    for stage in STAGES:
        made = rank_program.learner(folder, rank, 2, port, zero_stage=stage, train=LORA_ALONE, kl_beta=0.1, lr=LR)
        learn(made, folder, *range(SAVED_AFTER))
        made.save_checkpoint(folder / f"checkpoints-{stage}", SAVED_AFTER, {})
        learn(made, folder, *range(SAVED_AFTER, UPDATES))
        pushed = {name: tensor.clone() for name, tensor in ModuleWeights(made._model, bucket_bytes=1 << 16)}
        if rank == 0:
            save_file(pushed, folder / f"pushed-{stage}.safetensors")
        made.save_model(folder / f"model-{stage}")
