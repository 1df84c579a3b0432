"""One learner rank, and how a batch is split over several, without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from boxmed_ray.actors.learn_batch import LearnBatch, LearnGroup, kl_penalties, learn_groups, split
from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.config import LoraConfig, TrainableConfig
from boxmed_ray.grpo.loss import LossInputs, LossSettings, Normaliser, grpo_loss
from boxmed_ray.model.engine import cosine_lr
from boxmed_ray.model.policy import digest, load_policy
from boxmed_ray.model.reference import FrozenCopy
from boxmed_ray.model.shared_prefix import GroupInputs, response_logprobs
from tests import one_rank
from tests.actors.learner_cases import config, lengths, model_folder, resume, scored_groups


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


def batch(folder: Path, count: int = 4, seed: int = 0, micro_tokens: int = 110) -> LearnBatch:
    return split(learn_groups(scored_groups(folder, count, seed=seed), "group"), 1, micro_tokens)[0]


def parameters(rank: LearnerRank) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in rank._model.named_parameters()}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 3, 8, 13])
def test_every_rank_gets_as_many_micro_batches_and_no_group_is_lost(tmp_path: Path, count: int, ranks: int) -> None:
    scored = scored_groups(tmp_path, count)
    batches = split(learn_groups(scored, "group"), ranks, micro_tokens=160)
    assert len({len(b.micro) for b in batches}) == 1
    assert all(len(micro) >= 1 and sum(group.tokens for group in micro) <= 160 for b in batches for micro in b.micro)
    real = [group.id for b in batches for micro in b.micro for group in micro if not group.filler]
    assert sorted(real) == sorted(group.group.prompt.id for group in scored)
    assert all(b.tokens == sum(lengths(scored)) and b.sequences == len(lengths(scored)) for b in batches)


def test_tokens_are_dealt_about_evenly(tmp_path: Path) -> None:
    batches = split(learn_groups(scored_groups(tmp_path, 16), "group"), 2, 512)
    loads = [sum(g.tokens for micro in b.micro for g in micro) for b in batches]
    assert abs(loads[0] - loads[1]) <= 64  # the most that one group can have


def sized(tmp_path: Path, *sizes: int) -> list[LearnGroup]:
    """Groups of one response each, of so many tokens with their prompt of 20."""
    (scored,) = scored_groups(tmp_path, 1, responses=1)
    (group,) = learn_groups([scored], "none")
    return [
        replace(group, id=str(size), lengths=np.array([size - 20]), token_ids=np.arange(size - 20)) for size in sizes
    ]


def test_a_budget_of_tokens_cuts_micro_batches_by_hand(tmp_path: Path) -> None:
    groups = sized(tmp_path, 60, 50, 40, 30, 20 + 1)
    (whole,) = split(groups, 1, 201)
    assert [[g.tokens for g in micro] for micro in whole.micro] == [[60, 50, 40, 30, 21]]
    (halves,) = split(groups, 1, 200)  # largest first, each to the lighter half
    assert [[g.tokens for g in micro] for micro in halves.micro] == [[60, 30, 21], [50, 40]]
    # 201 tokens need two micro-batches of 110; but 60 + 30 + 21 are 111, so there are three
    (thirds,) = split(groups, 1, 110)
    assert [[g.tokens for g in micro] for micro in thirds.micro] == [[60], [50, 21], [40, 30]]


def test_a_group_beyond_the_budget_is_a_micro_batch_of_its_own(tmp_path: Path) -> None:
    (alone,) = split(sized(tmp_path, 300, 40, 30), 1, 80)
    assert [[g.tokens for g in micro] for micro in alone.micro] == [[300], [40, 30]]
    # The other rank is given fillers, which are the smallest group and count for nothing.
    first, second = split(sized(tmp_path, 300, 300, 300), 2, 80)
    assert [[g.filler for g in micro] for micro in first.micro] == [[False], [False]]
    assert [[g.filler for g in micro] for micro in second.micro] == [[False], [True]]


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
    metrics = rank.learn(split(groups, 1, 110)[0])
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    optimizer.step()
    after, expected = parameters(rank), dict(model.named_parameters())
    for name, value in after.items():
        # Adam's first step is lr·sign(gradient) nearly, so compare where the gradient is not rounding.
        solid = expected[name].grad.abs() > 1e-5
        assert torch.allclose(value[solid], expected[name][solid], atol=2e-6), name
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_loss_and_gradient_are_the_same_whatever_the_budget(folder: Path) -> None:
    outcomes = []
    for budget in (64, 110, 200, 10_000):
        rank = learner(folder, kl_beta=0.5, lr=3e-3)
        rank.learn(batch(folder, 5, seed=1, micro_tokens=budget))  # so that π_ref is not π_θ
        metrics = rank.learn(batch(folder, 5, micro_tokens=budget))
        outcomes.append((metrics["loss"], metrics["grad_norm"], metrics["kl"], metrics["entropy"]))
    assert len({len(batch(folder, 5, micro_tokens=budget).micro) for budget in (64, 110, 200, 10_000)}) == 4
    assert outcomes[0][2] > 1e-4
    for outcome in outcomes[1:]:
        assert outcome == pytest.approx(outcomes[0], rel=2e-4, abs=1e-6)


@pytest.mark.parametrize("zero_stage", [2, 3])
@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_learns_the_same(folder: Path, zero_stage: int, lora: bool) -> None:
    train = TrainableConfig(language_model=False, vision_tower=False, projector=False, lora=LoraConfig(rank=2, alpha=4))
    choices = {"zero_stage": zero_stage, "train": train if lora else TrainableConfig(), "lr": 3e-3}
    outcomes = []
    for again in (False, True):
        rank = learner(folder, gradient_checkpointing=again, **choices)
        assert any(getattr(m, "gradient_checkpointing", False) for m in rank._model.modules()) is again
        rank.learn(batch(folder, 4, seed=1))
        metrics = rank.learn(batch(folder, 4))
        outcomes.append([metrics[name] for name in ("loss", "grad_norm", "kl")])
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-5, abs=1e-8)
    assert outcomes[0][1] > 0


def test_a_second_inner_epoch_sees_the_ratio_move(folder: Path) -> None:
    metrics = learner(folder, inner_epochs=2, lr=3e-3).learn(batch(folder))
    assert metrics["weight_version"] == 2
    assert metrics["ratio_max"] > 1.001
    assert learner(folder, inner_epochs=1, lr=3e-3).learn(batch(folder))["ratio_max"] == 1.0


@pytest.mark.parametrize(
    ("choices", "settings"),
    [
        ({}, LossSettings(importance_cap=2.0)),
        ({"importance_cap": None}, LossSettings()),
        ({"importance_cap": 150.0}, LossSettings(importance_cap=150.0)),
        ({"dual_clip": 1.01}, LossSettings(dual_clip=1.01, importance_cap=2.0)),
        ({"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "aggregation": "sequence"},
         LossSettings(ratio="sequence", clip_low=3e-4, clip_high=4e-4, aggregation="sequence", importance_cap=2.0)),
        ({"aggregation": "constant", "max_new_tokens": 16},
         LossSettings(aggregation="constant", constant_length=16, importance_cap=2.0)),
        ({"aggregation": "constant", "constant_length": 5},
         LossSettings(aggregation="constant", constant_length=5, importance_cap=2.0)),
        ({"kl_beta": 0.3, "kl_kind": "k2"}, LossSettings(kl_beta=0.3, kl_kind="k2", importance_cap=2.0)),
        ({"kl_beta": 0.3, "kl_in": "reward"}, LossSettings(importance_cap=2.0)),  # no KL is left in the loss
    ],
)  # fmt: skip
def test_inner_epochs_are_steps_on_the_same_old_log_probabilities(
    folder: Path, choices: dict[str, object], settings: LossSettings
) -> None:
    """Two epochs against torch's own AdamW on replicated rows in one batch, with every choice of the loss."""
    rank = learner(folder, inner_epochs=2, zero_stage=0, **{"kl_beta": 0.0, "lr": 3e-3, **choices})
    groups = learn_groups(scored_groups(folder, 3), "group")
    model = load_policy(folder / "init").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.999), weight_decay=0.0)
    old = None
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = cosine_lr(epoch, rank._settings, 20)
        logprobs, mask = replicated(model, rank, groups)
        old = logprobs.detach() if old is None else old
        sampled, advantages = rollout_logprobs(groups), torch.cat([torch.from_numpy(g.advantages) for g in groups])
        inputs = LossInputs(logprobs, mask, advantages, old, sampled, old)  # the reference is the policy at first
        loss, metrics = grpo_loss(inputs, settings, Normaliser(float(mask.sum()), len(mask)))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    found = rank.learn(split(groups, 1, 110)[0])
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-3, abs=1e-6)
    assert found["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    for name in ("ratio_max", "ratio_min", "clip_share", "importance_capped"):
        assert found[name] == pytest.approx(metrics.as_dict()[name], rel=1e-3), name
    assert found["updated"] == 1


def replicated(
    model: torch.nn.Module, rank: LearnerRank, groups: list[LearnGroup]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and mask [B, R] of all responses, by one padded row a response."""
    encoded = []
    for group in groups:
        ids = list(torch.from_numpy(group.token_ids).split(group.lengths.tolist()))
        encoded.append(rank._encoder.group(Path(group.image), group.task, group.phrase, ids))
    out = response_logprobs(model, encoded, mode="replicated", banned_ids=rank._banned)
    return out.stacked()[:2]


def rollout_logprobs(groups: list[LearnGroup]) -> torch.Tensor:
    rows = [row for g in groups for row in torch.from_numpy(g.logprobs).split(g.lengths.tolist())]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_the_kl_of_a_response_is_the_samplers_to_the_reference(folder: Path, kind: Literal["k1", "k2", "k3"]) -> None:
    rank = learner(folder, kl_in="reward", kl_beta=0.1, kl_kind=kind)
    rank.learn(batch(folder, seed=7))  # the policy moves away; the reference does not
    groups = learn_groups(scored_groups(folder, 3), "group")
    found = rank.measure_kl(split(groups, 1, 110)[0])
    reference, mask = replicated(load_policy(folder / "init"), rank, groups)
    d = (rollout_logprobs(groups) - reference.detach()).masked_fill(~mask, 0.0)
    wanted = {"k1": d, "k2": d * d / 2, "k3": (-d).exp() - 1 + d}[kind].sum(1).split([len(g.lengths) for g in groups])
    assert sorted(found) == [0, 1, 2]
    for number, kl in enumerate(wanted):
        assert found[number] == pytest.approx(kl.numpy(), rel=1e-3)


def test_kl_is_taken_off_the_rewards_before_they_are_compared(tmp_path: Path) -> None:
    first, second = scored_groups(tmp_path, 2)
    rollouts = list(first.group.rollouts)
    rollouts[1] = replace(rollouts[1], token_ids=np.zeros(0, np.int64), logprobs=np.zeros(0, np.float32))
    rewards = np.array([1, 0, 0, 1], dtype=np.float32)
    first = replace(first, group=replace(first.group, rollouts=tuple(rollouts)), rewards=rewards)
    second = replace(second, rewards=np.zeros(4, np.float32))  # equal rewards: KL alone tells them apart
    divergences = {0: np.array([2, 4, 6], np.float32), 1: np.array([1, 2, 3, 2], np.float32)}
    penalties = kl_penalties([first, second], divergences, 0.1)
    assert penalties[0] == pytest.approx([0.2, 0, 0.4, 0.6])  # the empty response has none
    groups = learn_groups([first, second], "none", penalties)
    # 0.8, 0, -0.4, 0.4 have the mean 0.2; the second one is left out
    assert groups[0].advantages == pytest.approx([0.6, -0.6, 0.2])
    assert groups[1].advantages == pytest.approx([0.1, 0, -0.1, 0], abs=1e-6)
    scaled = learn_groups([first, second], "batch", penalties)
    spread = np.std([0.8, 0, -0.4, 0.4, -0.1, -0.2, -0.3, -0.2], ddof=1)
    assert scaled[0].advantages == pytest.approx(np.array([0.6, -0.6, 0.2]) / (spread + 1e-4), rel=1e-5)


def test_a_kl_that_is_no_number_skips_the_step_and_names_the_prompt(folder: Path) -> None:
    rank = learner(folder, kl_in="reward", kl_beta=0.1)
    scored = scored_groups(folder, 3)
    poisoned = replace(scored[1].group.rollouts[0], logprobs=np.full(len(scored[1].group.rollouts[0].logprobs), np.nan))
    group = replace(scored[1].group, rollouts=(poisoned, *scored[1].group.rollouts[1:]))
    scored[1] = replace(scored[1], group=group)
    divergences = rank.measure_kl(split(learn_groups(scored, "group"), 1, 110)[0])
    penalties = kl_penalties(scored, divergences, 0.1)
    metrics = rank.learn(split(learn_groups(scored, "group", penalties), 1, 110)[0])
    assert (metrics["updated"], metrics["bad_samples"]) == (0, [group.prompt.id])


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
    found = resume(second, tmp_path / "c")
    assert (found.step, found.state) == (1, {"position": 4, "weight_version": 1})
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
