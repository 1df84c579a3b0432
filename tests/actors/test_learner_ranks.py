"""Two and four learner ranks against one, at every ZeRO stage, and resuming with another number of ranks."""

from __future__ import annotations

import json
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from boxmed_ray.model.engine_state import full_state_dict
from tests import one_rank
from tests.actors import rank_program
from tests.actors.learner_cases import config, model_folder, resume

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model, and the images of all updates, so that ranks do not write the same at once."""
    one_rank.join()
    folder = tmp_path_factory.mktemp("ranks")
    model_folder(config(folder), folder)
    for update in range(rank_program.UPDATES):
        rank_program.groups_of(folder, update)
    yield folder
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # else it holds its memory to the session's end


@pytest.fixture(scope="module")
def trained(cases: Path) -> Path:
    """The folder after two processes have trained every stage (see rank_program)."""
    for stage in rank_program.BY_ONE_THEN_TWO:
        alone = rank_program.learner(cases, 0, 1, 1, zero_stage=stage)
        rank_program.learn(alone, cases, range(rank_program.SAVED_AFTER))
        alone.save_checkpoint(cases / f"checkpoints-of-one-{stage}", rank_program.SAVED_AFTER, {})
    _start(rank_program.run_two, cases, 2)
    return cases


@pytest.fixture(scope="module")
def trained_by_four(cases: Path) -> Path:
    """The folder after four processes have trained every stage that shards something."""
    _start(rank_program.run_four, cases, 4)
    return cases


@pytest.fixture(scope="module")
def alone(cases: Path) -> Callable[[int], tuple[State, list[float]]]:
    """Stage → the parameters that one rank ends with, and the losses of its updates."""

    @cache
    def train(stage: int) -> tuple[State, list[float]]:
        rank = rank_program.learner(cases, 0, 1, 1, zero_stage=stage)
        metrics = rank_program.learn(rank, cases, range(rank_program.UPDATES))
        return full_state_dict(rank._engine.module, 0), [update["loss"] for update in metrics]

    return train


def _start(program: Callable[[int, Path, int], None], folder: Path, ranks: int) -> None:
    """Run ``program`` in ``ranks`` processes, forked from one that has imported everything."""
    multiprocessing.set_forkserver_preload([rank_program.__name__])
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    mp.start_processes(program, (folder, port), nprocs=ranks, start_method="forkserver")


def _difference(one: State, other: State) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("stage", rank_program.STAGES)
def test_two_ranks_train_what_one_does_on_unequal_shares(trained: Path, alone: Callable, stage: int) -> None:
    state, _ = alone(stage)
    assert _difference(state, load_file(trained / f"two-ranks-{stage}.safetensors")) <= 1e-5


def test_four_ranks_get_unequal_shares_and_once_a_filler(cases: Path) -> None:
    for update, groups in enumerate(rank_program.GROUPS):
        micro = [micro for batch in rank_program.batches_of(cases, update, 4) for micro in batch.micro]
        assert sum(group.filler for part in micro for group in part) == (4 - groups if groups < 4 else 0)
        assert len({len([group for group in part if not group.filler]) for part in micro}) == 2


@pytest.mark.parametrize("stage", rank_program.SHARDED)
def test_four_ranks_train_what_one_does_on_unequal_shares(trained_by_four: Path, alone: Callable, stage: int) -> None:
    state, losses = alone(stage)
    assert _difference(state, load_file(trained_by_four / f"four-ranks-{stage}.safetensors")) <= 1e-5
    assert torch.load(trained_by_four / f"four-losses-{stage}.pt") == pytest.approx(losses, abs=1e-5)


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
    assert resume(alone, trained / f"checkpoints-{stage}").step == rank_program.SAVED_AFTER
    rank_program.learn(alone, trained, range(rank_program.SAVED_AFTER, rank_program.UPDATES))
    two = load_file(trained / f"two-ranks-{stage}.safetensors")
    assert _difference(full_state_dict(alone._engine.module, 0), two) <= 1e-5


@pytest.mark.parametrize("stage", rank_program.BY_ONE_THEN_TWO)
def test_a_checkpoint_of_one_rank_is_gone_on_with_by_two(trained: Path, alone: Callable, stage: int) -> None:
    state, _ = alone(stage)
    assert _difference(state, load_file(trained / f"one-then-two-{stage}.safetensors")) <= 1e-5
