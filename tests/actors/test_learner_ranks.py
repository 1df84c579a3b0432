"""Two learner ranks against one, at every ZeRO stage, and resuming with another number of ranks."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from boxmed_ray.model.engine_state import full_state_dict
from tests import one_rank
from tests.actors import rank_program
from tests.actors.learner_cases import config, model_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes have trained every stage (see rank_program)."""
    one_rank.join()
    folder = tmp_path_factory.mktemp("ranks")
    model_folder(config(folder), folder)
    for update in range(rank_program.UPDATES):
        rank_program.groups_of(folder, update)  # so that the ranks do not write the same images at once
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    mp.spawn(rank_program.run, (folder, port), nprocs=2)
    return folder


@pytest.mark.parametrize("stage", rank_program.STAGES)
def test_two_ranks_train_what_one_does_on_unequal_shares(trained: Path, stage: int) -> None:
    alone = rank_program.learner(trained, 0, 1, 1, zero_stage=stage)
    rank_program.learn(alone, trained, range(rank_program.UPDATES))
    one, two = full_state_dict(alone._engine.module, 0), load_file(trained / f"two-ranks-{stage}.safetensors")
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-5


@pytest.mark.parametrize("micro_tokens", [50, 110, 10_000])
def test_loss_and_gradient_are_the_same_whatever_the_ranks_the_budget_and_the_choices(
    trained: Path, micro_tokens: int
) -> None:
    two = json.loads((trained / "choices.json").read_text())
    alone = rank_program.learner(trained, 0, 1, 1, **rank_program.CHOICES)
    one = rank_program.learn(alone, trained, range(rank_program.UPDATES), micro_tokens)
    assert one[-1]["weight_version"] == 2 * rank_program.UPDATES
    for name in ("loss", "grad_norm", "kl", "entropy", "clip_share", "ratio_max", "tokens"):
        assert [m[name] for m in two] == pytest.approx([m[name] for m in one], rel=1e-3, abs=1e-6), name
    assert max(m["clip_share"] for m in one) > 0


@pytest.mark.parametrize("stage", rank_program.STAGES)
def test_two_ranks_resume_bit_for_bit(trained: Path, stage: int) -> None:
    whole = load_file(trained / f"two-ranks-{stage}.safetensors")
    resumed = load_file(trained / f"resumed-{stage}.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("stage", rank_program.STAGES)
def test_a_checkpoint_of_two_ranks_is_gone_on_with_by_one(trained: Path, stage: int) -> None:
    alone = rank_program.learner(trained, 0, 1, 1, zero_stage=stage)
    found = alone.load_checkpoint(trained / f"checkpoints-{stage}")
    assert found is not None
    assert found[0] == rank_program.SAVED_AFTER
    rank_program.learn(alone, trained, range(rank_program.SAVED_AFTER, rank_program.UPDATES))
    one, two = full_state_dict(alone._engine.module, 0), load_file(trained / f"two-ranks-{stage}.safetensors")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-5
