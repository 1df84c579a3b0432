"""One learner rank, and how a batch is split over several, without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from boxmed_ray.actors.learn_batch import LearnBatch, learn_groups, split
from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.model.policy import digest, load_policy
from boxmed_ray.model.reference import FrozenCopy
from boxmed_ray.model.shared_prefix import GroupInputs, response_logprobs
from tests import one_rank
from tests.actors.learner_cases import config, lengths, model_folder, scored_groups


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one_rank.join()
    made = tmp_path_factory.mktemp("learner")
    model_folder(config(made), made)
    return made


def learner(folder: Path, **svr: object) -> LearnerRank:
    rank = LearnerRank(config(folder, **svr), folder / "init", 0, 1)
    rank.connect(("127.0.0.1", 1))
    return rank


def batch(folder: Path, count: int = 4, seed: int = 0, micro_groups: int = 2) -> LearnBatch:
    return split(learn_groups(scored_groups(folder, count, seed=seed), "group"), 1, micro_groups)[0]


def parameters(rank: LearnerRank) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in rank._model.named_parameters()}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 3, 8, 13])
def test_every_rank_gets_as_many_micro_batches_and_no_group_is_lost(tmp_path: Path, count: int, ranks: int) -> None:
    scored = scored_groups(tmp_path, count)
    batches = split(learn_groups(scored, "group"), ranks, micro_groups=3)
    assert len({len(b.micro) for b in batches}) == 1
    assert all(1 <= len(micro) <= 3 for b in batches for micro in b.micro)
    real = [group.id for b in batches for micro in b.micro for group in micro if not group.filler]
    assert sorted(real) == sorted(group.group.prompt.id for group in scored)
    assert all(b.tokens == sum(lengths(scored)) and b.sequences == len(lengths(scored)) for b in batches)


def test_tokens_are_dealt_about_evenly(tmp_path: Path) -> None:
    batches = split(learn_groups(scored_groups(tmp_path, 16), "group"), 2, 8)
    loads = [sum(int(g.lengths.sum()) for micro in b.micro for g in micro) for b in batches]
    assert abs(loads[0] - loads[1]) <= 44  # the most that one group can have


def test_an_empty_response_counts_in_the_comparison_and_is_not_learned(tmp_path: Path) -> None:
    scored = scored_groups(tmp_path, 1)[0]
    rollouts = list(scored.group.rollouts)
    rollouts[1] = replace(rollouts[1], token_ids=np.zeros(0, np.int64), logprobs=np.zeros(0, np.float32))
    rewards = np.array([1, 0, 0, 0], dtype=np.float32)
    cut = replace(scored, group=replace(scored.group, rollouts=tuple(rollouts)), rewards=rewards)
    group = learn_groups([cut], "none")[0]
    assert len(group.lengths) == 3
    assert group.advantages.tolist() == pytest.approx([0.75, -0.25, -0.25])


def test_a_reward_that_is_no_number_is_refused_by_the_prompts_name(tmp_path: Path) -> None:
    scored = scored_groups(tmp_path, 1)[0]
    bad = replace(scored, rewards=np.array([1, np.nan, 0, 0], dtype=np.float32))
    with pytest.raises(ValueError, match=f"prompt {scored.group.prompt.id}.*finite"):
        learn_groups([bad], "group")


def test_the_first_update_is_the_plain_policy_gradient(folder: Path) -> None:
    """Before the first step ρ = 1 and KL = 0, so the gradient is that of −Σ w A log π / tokens: by hand."""
    rank = learner(folder, kl_beta=0.5, zero_stage=0, lr=1e-3)
    groups = learn_groups(scored_groups(folder, 3), "group")
    model = load_policy(folder / "init").train()
    total = 0
    tokens = sum(int(group.lengths.sum()) for group in groups)
    for group in groups:
        ids = list(torch.from_numpy(group.token_ids).split(group.lengths.tolist()))
        encoded = rank._encoder.group(Path(group.image), group.task, group.phrase, ids)
        inputs = GroupInputs(encoded.prompt_ids, encoded.pixel_values, encoded.image_grid_thw, ids)
        out = response_logprobs(model, [inputs], mode="replicated", banned_ids=rank._banned)
        for row, mask, advantage, sampled in zip(
            out.logprobs[0], out.mask[0], group.advantages,
            torch.from_numpy(group.logprobs).split(group.lengths.tolist()), strict=True,
        ):  # fmt: skip
            logprobs = row[mask]
            weight = (logprobs.detach() - sampled).exp().clamp(max=2.0)
            total = total - (weight * float(advantage) * logprobs).sum() / tokens
    total.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    before = parameters(rank)
    metrics = rank.learn(split(groups, 1, 2)[0])
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    optimizer.step()
    after, expected = parameters(rank), dict(model.named_parameters())
    for name, value in after.items():
        # Adam's first step is lr·sign(gradient) nearly, so compare where the gradient is not rounding.
        solid = expected[name].grad.abs() > 1e-5
        assert torch.allclose(value[solid], expected[name][solid], atol=2e-6), name
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_a_second_inner_epoch_sees_the_ratio_move(folder: Path) -> None:
    metrics = learner(folder, inner_epochs=2, lr=3e-3).learn(batch(folder))
    assert metrics["weight_version"] == 2
    assert metrics["ratio_max"] > 1.001
    assert learner(folder, inner_epochs=1, lr=3e-3).learn(batch(folder))["ratio_max"] == 1.0


def test_the_reference_stays_where_the_stage_began(folder: Path) -> None:
    rank = learner(folder, kl_beta=0.1, lr=3e-3)
    divergences = [rank.learn(batch(folder, seed=seed))["kl"] for seed in range(4)]
    assert divergences[0] == pytest.approx(0, abs=1e-6)
    assert divergences[3] > 1e-4
    assert isinstance(rank._reference, FrozenCopy)
    assert digest(rank._reference.model.named_parameters()) == digest(load_policy(folder / "init").named_parameters())


def test_without_kl_there_is_no_reference(folder: Path) -> None:
    rank = learner(folder, kl_beta=0.0)
    assert rank._reference is None
    assert rank.learn(batch(folder))["updated"] == 1


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_number_that_is_not_finite_changes_nothing_and_names_the_prompt(folder: Path, zero_stage: int) -> None:
    rank = learner(folder, zero_stage=zero_stage)
    rank.learn(batch(folder))
    before = dict(rank_state(rank))
    good = batch(folder, seed=1)
    poisoned = replace(good.micro[0][0], logprobs=np.full_like(good.micro[0][0].logprobs, np.nan))
    metrics = rank.learn(replace(good, micro=[[poisoned, *good.micro[0][1:]], *good.micro[1:]]))
    assert metrics["updated"] == 0
    assert metrics["bad_samples"] == [poisoned.id]
    assert metrics["weight_version"] == 1
    after = dict(rank_state(rank))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert rank.learn(batch(folder, seed=2))["updated"] == 1


def rank_state(rank: LearnerRank) -> list[tuple[str, torch.Tensor]]:
    from boxmed_ray.model.engine_state import full_state_dict

    return list(full_state_dict(rank._engine.module, 0).items())


@pytest.mark.parametrize(("saved", "resumed"), [(0, 0), (1, 1), (2, 2), (3, 3), (2, 0), (0, 3), (3, 1)])
def test_a_checkpoint_goes_on_exactly_at_this_or_another_stage(
    folder: Path, tmp_path: Path, saved: int, resumed: int
) -> None:
    first = learner(folder, zero_stage=saved)
    first.learn(batch(folder, seed=0))
    first.save_checkpoint(tmp_path / "c", 1, {"position": 4})
    ends = [first.learn(batch(folder, seed=seed)) for seed in (1, 2)]
    second = learner(folder, zero_stage=resumed)
    assert second.load_checkpoint(tmp_path / "c") == (1, {"position": 4, "weight_version": 1})
    again = [second.learn(batch(folder, seed=seed)) for seed in (1, 2)]
    tolerance = 0.0 if saved == resumed else 1e-5
    for one, two in zip(ends, again, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=tolerance, abs=tolerance)
        assert two["lr"] == one["lr"]
    pairs = zip(rank_state(first), rank_state(second), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=tolerance) for (_, a), (_, b) in pairs)


def test_the_model_it_saves_is_the_one_it_trained(folder: Path, tmp_path: Path) -> None:
    rank = learner(folder, zero_stage=3)
    rank.learn(batch(folder))
    rank.save_model(tmp_path / "model")
    state = {name.removeprefix("model."): value for name, value in rank_state(rank)}
    loaded = dict(load_policy(tmp_path / "model").named_parameters())
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
