"""The loss against numbers computed by hand, term by term."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from boxmed_ray.grpo.loss import (
    LossInputs,
    LossSettings,
    Normaliser,
    grpo_loss,
    importance_ratio,
    kl_estimate,
    kl_in_reward,
)
from boxmed_ray.grpo.metrics import LossMetrics

LN = math.log
MASK = torch.tensor([[True, True, True], [True, False, False]])
NAN = float("nan")  # what stands in the padding must never matter


def inputs(ratios: list[list[float]], advantages: list[float], **more: Any) -> LossInputs:
    """Two responses of three and one tokens whose π_θ/π_old are given."""
    old = torch.tensor([[-1.0, -2.0, -0.5], [-1.5, NAN, NAN]])
    logprobs = old + torch.tensor(ratios).log()
    return LossInputs(logprobs.requires_grad_(), MASK, torch.tensor(advantages), old_logprobs=old, **more)


RATIOS = [[1.1, 1.5, 0.5], [0.6, 1.0, 1.0]]


def loss_of(settings: LossSettings, batch: LossInputs, normaliser: Normaliser | None = None) -> float:
    return grpo_loss(batch, settings, normaliser or Normaliser(4, 2))[0].detach().item()


def test_clipping_is_asymmetric_and_pessimistic() -> None:
    # A = 2: min(2.2, 2.2), min(3.0, 1.28 * 2), min(1.0, 0.8 * 2); A = -1: min(-0.6, -0.8)
    assert loss_of(LossSettings(), inputs(RATIOS, [2.0, -1.0])) == pytest.approx(-(2.2 + 2.56 + 1.0 - 0.8) / 4)


def test_dual_clip_bounds_the_loss_of_bad_responses_with_a_large_ratio() -> None:
    batch = inputs([[1.0, 1.0, 1.0], [9.0, 1.0, 1.0]], [1.0, -1.0])
    assert loss_of(LossSettings(), batch) == pytest.approx(-(3 - 9) / 4)
    assert loss_of(LossSettings(dual_clip=3.0), batch) == pytest.approx(-(3 - 3) / 4)
    positive = inputs([[1.0, 1.0, 1.0], [9.0, 1.0, 1.0]], [1.0, 1.0])
    assert loss_of(LossSettings(dual_clip=3.0), positive) == pytest.approx(loss_of(LossSettings(), positive))


def test_three_aggregations() -> None:
    batch = inputs(RATIOS, [2.0, -1.0])
    first, second = -(2.2 + 2.56 + 1.0), 0.8
    assert loss_of(LossSettings(aggregation="token"), batch) == pytest.approx((first + second) / 4)
    assert loss_of(LossSettings(aggregation="sequence"), batch) == pytest.approx((first / 3 + second / 1) / 2)
    constant = LossSettings(aggregation="constant", constant_length=5)
    assert loss_of(constant, batch) == pytest.approx((first + second) / (2 * 5))


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_micro_batches_and_ranks_add_up_to_the_whole_batch(aggregation: str) -> None:
    settings = LossSettings(aggregation=aggregation, constant_length=5)  # type: ignore[arg-type]
    batch = inputs(RATIOS, [2.0, -1.0])
    whole, metrics = grpo_loss(batch, settings, Normaliser(4, 2))
    parts = []
    merged = LossMetrics.empty()
    for row in (slice(0, 1), slice(1, 2)):
        assert batch.old_logprobs is not None
        part = LossInputs(batch.logprobs[row], MASK[row], batch.advantages[row], old_logprobs=batch.old_logprobs[row])
        loss, measured = grpo_loss(part, settings, Normaliser(4, 2))
        parts.append(loss)
        merged = merged.merge(measured)
    assert sum(part.item() for part in parts) == pytest.approx(whole.item())
    assert merged.as_dict() == pytest.approx(metrics.as_dict())


def test_sequence_ratio_is_the_geometric_mean() -> None:
    log_ratio = torch.tensor([[LN(2.0), LN(4.0), LN(1.0)], [LN(3.0), 9.0, 9.0]])
    ratio = importance_ratio(log_ratio, MASK, "sequence")
    torch.testing.assert_close(ratio[0], torch.full((3,), 2.0))
    torch.testing.assert_close(ratio[1], torch.full((3,), 3.0))
    # GSPO: mean over responses of min(s A, clip(s) A); s = 2 is clipped at 1.28 for A = 1, s = 1 for A = -1 is not
    batch = inputs([[2.0, 4.0, 1.0], [1.0, 1.0, 1.0]], [1.0, -1.0])
    settings = LossSettings(ratio="sequence", aggregation="sequence")
    assert loss_of(settings, batch) == pytest.approx(-(1.28 - 1.0) / 2)


def test_kl_estimators() -> None:
    difference = torch.tensor([LN(2.0), -LN(2.0), 0.0])
    torch.testing.assert_close(kl_estimate(difference, "k1"), difference)
    torch.testing.assert_close(kl_estimate(difference, "k2"), difference**2 / 2)
    torch.testing.assert_close(
        kl_estimate(difference, "k3"), torch.tensor([0.5 - 1 + LN(2.0), 2 - 1 - LN(2.0), 0.0]), atol=1e-6, rtol=0
    )


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    difference = (policy / reference).log()
    exact = float((policy * difference).sum())
    assert float((policy * kl_estimate(difference, "k1")).sum()) == pytest.approx(exact)
    assert float((policy * kl_estimate(difference, "k3")).sum()) == pytest.approx(exact)
    assert bool((kl_estimate(torch.randn(1000), "k3") >= 0).all())


def test_kl_to_the_reference_is_added_per_token() -> None:
    ones = [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    old = torch.tensor([[-1.0, -2.0, -0.5], [-1.5, 0.0, 0.0]])
    batch = inputs(ones, [0.0, 0.0], reference_logprobs=old - LN(2.0))
    result, metrics = grpo_loss(batch, LossSettings(kl_beta=0.1, kl_kind="k2"), Normaliser(4, 2))
    assert result.item() == pytest.approx(0.1 * LN(2.0) ** 2 / 2)
    assert metrics.as_dict()["kl"] == pytest.approx(0.5 - 1 + LN(2.0), abs=1e-6)
    with pytest.raises(ValueError, match="reference"):
        grpo_loss(inputs(ones, [0.0, 0.0]), LossSettings(kl_beta=0.1), Normaliser(4, 2))


def test_kl_in_the_reward_sums_over_the_tokens_of_a_response() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -0.5], [-1.5, NAN, NAN]])
    reference = torch.tensor([[-1.5, -2.5, -1.0], [-1.0, NAN, NAN]])
    torch.testing.assert_close(kl_in_reward(logprobs, reference, MASK), torch.tensor([1.5, -0.5]))


def test_importance_correction_is_truncated_and_has_no_gradient() -> None:
    # π_old / π_rollout = 0.5, 1, 3 and 1.5, capped at 2
    weights = torch.tensor([[0.5, 1.0, 3.0], [1.5, 1.0, 1.0]])
    old = torch.tensor([[-1.0, -2.0, -0.5], [-1.5, NAN, NAN]])
    batch = inputs([[1.0] * 3, [1.0] * 3], [1.0, -2.0], rollout_logprobs=old - weights.log())
    loss, metrics = grpo_loss(batch, LossSettings(importance_cap=2.0), Normaliser(4, 2))
    assert float(loss.detach()) == pytest.approx(-(0.5 + 1.0 + 2.0 - 2 * 1.5) / 4)
    (gradient,) = torch.autograd.grad(loss, batch.logprobs)
    # d(-w ρ A)/d log π = -w ρ A, with w held fixed; nothing reaches the padding
    expected = torch.tensor([[-0.5, -1.0, -2.0], [3.0, 0.0, 0.0]]) / 4
    torch.testing.assert_close(gradient, expected)
    values = metrics.as_dict()
    assert values["gap_mean"] == pytest.approx((LN(2) + LN(3) + LN(1.5)) / 4)
    assert values["gap_max"] == pytest.approx(LN(3))
    assert values["importance_mean"] == pytest.approx((0.5 + 1 + 3 + 1.5) / 4)
    assert values["importance_capped"] == pytest.approx(1 / 4)


def test_first_inner_epoch_needs_no_old_log_probabilities() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -0.5], [-1.5, NAN, NAN]], requires_grad=True)
    loss, metrics = grpo_loss(LossInputs(logprobs, MASK, torch.tensor([2.0, -1.0])), LossSettings(), Normaliser(4, 2))
    assert float(loss.detach()) == pytest.approx(-(3 * 2.0 - 1.0) / 4)
    (gradient,) = torch.autograd.grad(loss, logprobs)  # the plain policy gradient
    torch.testing.assert_close(gradient, torch.tensor([[-2.0, -2.0, -2.0], [1.0, 0.0, 0.0]]) / 4)
    assert metrics.as_dict()["ratio_max"] == metrics.as_dict()["ratio_min"] == 1.0


def test_metrics_of_a_batch() -> None:
    entropy = torch.tensor([[0.1, 0.2, 0.3], [0.6, NAN, NAN]])
    _, metrics = grpo_loss(inputs(RATIOS, [2.0, -1.0], entropy=entropy), LossSettings(), Normaliser(4, 2))
    values = metrics.as_dict()
    assert values["clip_share"] == 2 / 4  # 1.5 above 1.28 with A > 0, and 0.6 below 0.8 with A < 0
    assert values["entropy"] == pytest.approx(0.3)
    assert values["ratio_min"] == pytest.approx(0.5)
    assert values["ratio_max"] == pytest.approx(1.5)
    assert values["length"] == 2.0


def test_shapes_and_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="advantages"):
        grpo_loss(LossInputs(torch.zeros(2, 3), MASK, torch.zeros(3)), LossSettings(), Normaliser(4, 2))
    with pytest.raises(ValueError, match="sampler"):
        grpo_loss(inputs(RATIOS, [1.0, 1.0]), LossSettings(importance_cap=2.0), Normaliser(4, 2))
    with pytest.raises(ValueError, match="constant_length"):
        LossSettings(aggregation="constant")
    with pytest.raises(ValueError, match="dual_clip"):
        LossSettings(dual_clip=1.0)
    with pytest.raises(ValueError, match="clip_low"):
        LossSettings(clip_low=1.5)
