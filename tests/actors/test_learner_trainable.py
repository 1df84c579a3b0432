"""A learner rank that trains LoRA or some parts only: its reference, what it pushes and saves, and its checkpoints."""

from __future__ import annotations

import copy
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.config import LoraConfig, TrainableConfig
from boxmed_ray.model.engine_state import full_state_dict
from boxmed_ray.model.policy import load_policy
from boxmed_ray.model.reference import DisabledAdapter, FrozenCopy
from boxmed_ray.model.trainable import select_trainable
from tests import one_rank
from tests.actors import rank_program, trainable_program
from tests.actors.learner_cases import config, model_folder, resume
from tests.actors.trainable_program import LORA_ALONE, LORA_AND_PROJECTOR


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one_rank.join()
    made = tmp_path_factory.mktemp("trainable")
    model_folder(config(made), made)
    for update in range(trainable_program.UPDATES):
        trainable_program.groups_of(made, update)  # so that the ranks do not write the same images at once
    return made


def learner(folder: Path, **svr: Any) -> LearnerRank:
    return rank_program.learner(folder, 0, 1, 1, **{"train": LORA_ALONE, "lr": 3e-3, **svr})


def learn(rank: LearnerRank, folder: Path, *updates: int) -> list[dict[str, Any]]:
    return trainable_program.learn(rank, folder, *updates)


def comparable(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name != "seconds"}


def merged_by_peft(rank: LearnerRank, folder: Path, train: TrainableConfig) -> dict[str, torch.Tensor]:
    """The starting model with the rank's parameters put into it, merged by PEFT itself."""
    state = {name.removeprefix("model."): value for name, value in full_state_dict(rank._engine.module, 0).items()}
    model = load_policy(folder / "init")
    adapted: Any = select_trainable(model, train)
    model.load_state_dict(state, strict=False)
    return dict(copy.deepcopy(adapted).merge_and_unload().named_parameters())


def test_lora_alone_needs_no_second_model_and_its_kl_is_that_of_a_copy(folder: Path) -> None:
    rank = learner(folder, kl_beta=0.1)
    assert isinstance(rank._reference, DisabledAdapter)
    twin = learner(folder, kl_beta=0.1)
    twin._reference = FrozenCopy(load_policy(folder / "init"), twin._engine.device, twin._engine.device)
    found, expected = learn(rank, folder, 0, 1, 2), learn(twin, folder, 0, 1, 2)
    assert found[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert found[2]["kl"] > 1e-4
    assert [comparable(one) for one in found] == [comparable(other) for other in expected]


def test_parts_beside_lora_need_a_copy(folder: Path) -> None:
    assert isinstance(learner(folder, kl_beta=0.1, train=LORA_AND_PROJECTOR)._reference, FrozenCopy)


@pytest.mark.parametrize("train", [LORA_ALONE, TrainableConfig(vision_tower=False)])
def test_without_kl_there_is_no_reference_of_any_kind(folder: Path, train: TrainableConfig) -> None:
    assert learner(folder, kl_beta=0.0, train=train)._reference is None


def test_a_reference_that_waits_on_the_cpu_gives_the_same_numbers(folder: Path) -> None:
    results = []
    for device in ("learner", "cpu"):
        rank = learner(folder, kl_beta=0.1, train=TrainableConfig(projector=False), reference_device=device)
        results.append([comparable(one) for one in learn(rank, folder, 0, 1)])
    assert results[0] == results[1]
    assert results[0][1]["kl"] > 0


@pytest.mark.parametrize("train", [LORA_ALONE, LORA_AND_PROJECTOR])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_what_is_pushed_and_saved_is_the_merged_model_under_its_own_names(
    folder: Path, tmp_path: Path, zero_stage: int, train: TrainableConfig
) -> None:
    from boxmed_ray.actors.weight_source import ModuleWeights

    rank = learner(folder, zero_stage=zero_stage, train=train)
    learn(rank, folder, 0, 1)
    source = ModuleWeights(rank._model, bucket_bytes=1 << 16)
    pushed = {name: tensor.clone() for name, tensor in source}
    start, expected = dict(load_policy(folder / "init").named_parameters()), merged_by_peft(rank, folder, train)
    assert [(meta.name, tuple(meta.shape)) for meta in source.metadata()] == [
        (name, tuple(tensor.shape)) for name, tensor in pushed.items()
    ]
    assert pushed.keys() == start.keys() == expected.keys()
    for name, tensor in pushed.items():
        torch.testing.assert_close(tensor, expected[name].detach(), rtol=0, atol=1e-6)
    changed = {name for name in pushed if not torch.equal(pushed[name], start[name])}
    assert any("q_proj" in name for name in changed)
    assert any("visual.merger" in name for name in changed) == train.projector
    assert not any("visual.blocks" in name or "embed_tokens" in name for name in changed)
    rank.save_model(tmp_path / "model")
    saved = dict(load_policy(tmp_path / "model").named_parameters())
    assert saved.keys() == pushed.keys()
    assert all(torch.equal(saved[name], pushed[name]) for name in pushed)
    assert not list((tmp_path / "model").glob("adapter*"))


@pytest.mark.parametrize("train", [LORA_AND_PROJECTOR, TrainableConfig(vision_tower=False)])
@pytest.mark.parametrize(("saved", "resumed"), [(0, 0), (2, 2), (3, 3), (3, 1)])
def test_a_checkpoint_of_what_trains_goes_on_exactly(
    folder: Path, tmp_path: Path, saved: int, resumed: int, train: TrainableConfig
) -> None:
    first = learner(folder, zero_stage=saved, train=train)
    learn(first, folder, 0)
    first.save_checkpoint(tmp_path / "c", 1, {})
    learn(first, folder, 1, 2)
    second = learner(folder, zero_stage=resumed, train=train)
    resume(second, tmp_path / "c")
    learn(second, folder, 1, 2)
    one, two = (full_state_dict(rank._engine.module, 0) for rank in (first, second))
    tolerance = 0.0 if saved == resumed else 1e-5
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=tolerance) for name in one)


@pytest.mark.parametrize("zero_stage", [0, 3])
@pytest.mark.parametrize(
    "other", [TrainableConfig(), LORA_ALONE.model_copy(update={"lora": LoraConfig(rank=1, alpha=4)})]
)
def test_a_checkpoint_of_other_trained_parts_or_another_rank_is_refused(
    folder: Path, tmp_path: Path, other: TrainableConfig, zero_stage: int
) -> None:
    learner(folder, zero_stage=zero_stage, train=other).save_checkpoint(tmp_path / "c", 1, {})
    with pytest.raises(KeyError, match=r"trained other parts.*train settings"):
        resume(learner(folder, zero_stage=zero_stage), tmp_path / "c")


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> Path:
    """A folder in which two processes have trained LoRA (see trainable_program)."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    mp.spawn(trainable_program.run, (folder, port), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", trainable_program.STAGES)
def test_two_ranks_learn_push_save_and_resume_lora_as_one_does(two_ranks: Path, stage: int) -> None:
    alone = learner(two_ranks, zero_stage=stage, kl_beta=0.1, lr=trainable_program.LR)
    start = full_state_dict(alone._engine.module, 0, merged=True)
    resume(alone, two_ranks / f"checkpoints-{stage}")
    learn(alone, two_ranks, *range(trainable_program.SAVED_AFTER, trainable_program.UPDATES))
    expected = full_state_dict(alone._engine.module, 0, merged=True)
    pushed = load_file(two_ranks / f"pushed-{stage}.safetensors")
    assert {f"model.{name}" for name in pushed} == expected.keys()
    assert max(float((pushed[name] - expected[f"model.{name}"]).abs().max()) for name in pushed) <= 1e-5
    assert max(float((pushed[name] - start[f"model.{name}"]).abs().max()) for name in pushed) > 1e-4
    saved = dict(load_policy(two_ranks / f"model-{stage}").named_parameters())
    assert all(torch.equal(saved[name], pushed[name]) for name in pushed)
