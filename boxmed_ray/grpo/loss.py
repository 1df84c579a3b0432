"""The policy loss: typed input, one function, one aggregation.

What lives here: formulas on [B, R] tensors (B responses, R positions, right-padded). What does not: models, advantages,
where the numbers come from, metrics over steps (metrics.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from boxmed_ray.grpo.metrics import LossMetrics

KLKind = Literal["k1", "k2", "k3"]
Aggregation = Literal["token", "sequence", "constant"]
RatioKind = Literal["token", "sequence"]


@dataclass(frozen=True)
class LossSettings:
    """Choices of the loss.

    Attributes:
        clip_low: ε_low, 0 < ε_low < 1.
        clip_high: ε_high > 0; the defaults .2 and .28 are those of arXiv 2512.10691.
        dual_clip: c > 1 bounds the loss of a token with negative advantage at c·|A|; None for no bound.
        ratio: importance ratio per token (GRPO) or per sequence (GSPO).
        aggregation: how token losses are averaged, see ``aggregate``.
        constant_length: L of aggregation "constant".
        kl_beta: β; 0 needs no reference log-probabilities.
        kl_kind: estimator of KL(π_θ ‖ π_ref), see ``kl_estimate``.
        importance_cap: C of the truncated importance correction; None for no correction.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    ratio: RatioKind = "token"
    aggregation: Aggregation = "token"
    constant_length: int | None = None
    kl_beta: float = 0.0
    kl_kind: KLKind = "k3"
    importance_cap: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.clip_low < 1 or self.clip_high <= 0:
            raise ValueError(f"clip_low {self.clip_low} must lie in (0, 1) and clip_high {self.clip_high} above 0")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip {self.dual_clip} must be above 1")
        if self.aggregation == "constant" and not self.constant_length:
            raise ValueError("aggregation 'constant' needs constant_length, for example the cap of a response")
        if self.importance_cap is not None and self.importance_cap <= 0:
            raise ValueError(f"importance_cap {self.importance_cap} must be above 0")


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch of B responses; [B, R] tensors are right-padded and only read where ``mask`` is True.

    Attributes:
        logprobs: [B, R] of the policy being trained, with gradient.
        mask: [B, R] bool, True on response tokens; every row has at least one.
        advantages: [B].
        old_logprobs: [B, R] of the policy before this batch's first update, by the learner; None in the first of the
            inner epochs, where they are ``logprobs`` without gradient.
        rollout_logprobs: [B, R] as the sampler gave them; None for no correction and no gap metrics.
        reference_logprobs: [B, R] of the frozen reference; needed where β > 0.
        entropy: [B, R] for the metric only.
    """

    logprobs: Tensor
    mask: Tensor
    advantages: Tensor
    old_logprobs: Tensor | None = None
    rollout_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None
    entropy: Tensor | None = None


@dataclass(frozen=True)
class Normaliser:
    """Counts over the whole update, all ranks and micro-batches, so that their losses add up to the batch's loss.

    Attributes:
        tokens: response tokens of the update.
        sequences: responses of the update.
    """

    tokens: float
    sequences: float


def grpo_loss(inputs: LossInputs, settings: LossSettings, normaliser: Normaliser) -> tuple[Tensor, LossMetrics]:
    """Clipped policy loss plus β times KL (GRPO, arXiv 2402.03300, eq. 3; PPO, arXiv 1707.06347, eq. 7).

    Per token, with ρ = π_θ/π_old (one per token, or per sequence for GSPO) and ε_low, ε_high apart ("clip higher",
    DAPO, arXiv 2503.14476, eq. 8):

        ℓ = −w · min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A) + β · KL
        w = min(π_old / π_rollout, C), without gradient

    w corrects for a sampler whose probabilities differ from the learner's (truncated importance sampling; Ionides
    2008; "Your efficient RL framework secretly brings you off-policy RL training", Yao et al. 2025). With dual clip
    (arXiv 1912.09729, eq. 5) the min is replaced, where A < 0, by max(min(…), c·A).

    Returns:
        The scalar loss of this micro-batch, whose sum over micro-batches and ranks is the loss of the update (an
        engine that averages gradients over ranks must undo that); and its metrics, which add up likewise.

    Raises:
        ValueError: β > 0 without reference log-probabilities, or shapes that differ.
    """
    _check(inputs, settings)
    mask = inputs.mask
    logprobs = inputs.logprobs.masked_fill(~mask, 0.0)
    old = logprobs.detach() if inputs.old_logprobs is None else inputs.old_logprobs.masked_fill(~mask, 0.0)
    ratio = importance_ratio(logprobs - old, mask, settings.ratio)
    advantages = inputs.advantages[:, None]
    clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    if settings.dual_clip is not None:
        objective = torch.where(advantages < 0, objective.maximum(settings.dual_clip * advantages), objective)
    gap = weight = None
    if inputs.rollout_logprobs is not None:
        gap = (old - inputs.rollout_logprobs).masked_fill(~mask, 0.0)
        if settings.importance_cap is not None:
            weight = gap.exp().clamp(max=settings.importance_cap)
            objective = weight * objective
    losses, kl = -objective, None
    if inputs.reference_logprobs is not None:
        difference = logprobs - inputs.reference_logprobs.masked_fill(~mask, 0.0)
        kl = kl_estimate(difference, "k3").detach()
        if settings.kl_beta:
            losses = losses + settings.kl_beta * kl_estimate(difference, settings.kl_kind)
    loss = aggregate(losses, mask, settings, normaliser)
    is_clipped = ((ratio < 1 - settings.clip_low) & (advantages < 0)) | (
        (ratio > 1 + settings.clip_high) & (advantages > 0)
    )
    metrics = LossMetrics.measure(mask, ratio.detach(), is_clipped, kl, inputs.entropy, gap, settings.importance_cap)
    return loss, metrics


def importance_ratio(log_ratio: Tensor, mask: Tensor, kind: RatioKind) -> Tensor:
    """ρ [B, R] from log π_θ − log π_old [B, R].

    "token": exp of each. "sequence": s = exp(mean over the response's tokens), the same for all its tokens (GSPO,
    arXiv 2507.18071, eq. 7); with aggregation "sequence" the loss is then exactly GSPO's eq. 5.
    """
    if kind == "sequence":
        mean = (log_ratio * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        log_ratio = mean.expand_as(log_ratio)
    return log_ratio.exp()


def kl_estimate(difference: Tensor, kind: KLKind) -> Tensor:
    """Estimate KL(π_θ ‖ π_ref) at tokens drawn from π_θ, from d = log π_θ − log π_ref, elementwise.

    k1 = d, unbiased, of either sign (its expected gradient in a loss is 0: use it in the reward); k2 = d²/2, biased,
    low variance; k3 = e^−d − 1 + d, unbiased, never negative. Source: J. Schulman, "Approximating KL divergence",
    2020.
    """
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference.square() / 2
    if kind == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"kl kind {kind!r} is unknown; use k1, k2 or k3")


def kl_in_reward(logprobs: Tensor, reference: Tensor, mask: Tensor, kind: KLKind = "k1") -> Tensor:
    """KL of each response [B], summed over its tokens: subtract β times it from the reward instead of a loss term.

    As in InstructGPT (arXiv 2203.02155, eq. 2). Without gradient.
    """
    return (kl_estimate((logprobs - reference).detach(), kind).masked_fill(~mask, 0.0)).sum(1)


def aggregate(losses: Tensor, mask: Tensor, settings: LossSettings, normaliser: Normaliser) -> Tensor:
    """Average token losses [B, R] over the update to which this micro-batch belongs.

    "token": Σ ℓ / tokens, every token counts the same (DAPO, arXiv 2503.14476, eq. 8). "sequence": Σ_i (Σ_t ℓ_it /
    |y_i|) / sequences, every response counts the same (GRPO, arXiv 2402.03300, eq. 3). "constant": Σ ℓ / (sequences
    · L), no dependence on the responses' lengths (Dr. GRPO, arXiv 2503.20783).
    """
    losses = losses.masked_fill(~mask, 0.0)
    if settings.aggregation == "token":
        return losses.sum() / normaliser.tokens
    if settings.aggregation == "sequence":
        return (losses.sum(1) / mask.sum(1)).sum() / normaliser.sequences
    return losses.sum() / (normaliser.sequences * float(settings.constant_length or 1))


def _check(inputs: LossInputs, settings: LossSettings) -> None:
    shape = inputs.logprobs.shape
    for name in ("mask", "old_logprobs", "rollout_logprobs", "reference_logprobs", "entropy"):
        tensor = getattr(inputs, name)
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} is {list(tensor.shape)}, logprobs {list(shape)}")
    if inputs.advantages.shape != shape[:1]:
        raise ValueError(f"advantages is {list(inputs.advantages.shape)}, must be {[shape[0]]}")
    if settings.kl_beta and inputs.reference_logprobs is None:
        raise ValueError(f"kl_beta {settings.kl_beta} needs reference log-probabilities")
    if settings.importance_cap is not None and inputs.rollout_logprobs is None:
        raise ValueError(f"importance_cap {settings.importance_cap} needs the sampler's log-probabilities")
