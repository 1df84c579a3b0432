"""Numbers to watch in an update, in a form that adds up over micro-batches and ranks.

What lives here: sums, extremes and their merging. What does not: logging them (tracking.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SUMS = ("tokens", "sequences", "clipped", "kl", "entropy", "ratio", "gap", "importance", "capped")
_LARGEST = ("ratio_max", "gap_max", "inverse_ratio_max")


@dataclass
class LossMetrics:
    """Sums over tokens and largest values; ``merge`` adds two, ``as_dict`` gives means.

    For ranks: all-reduce ``sums`` with SUM and ``largest`` with MAX.

    Attributes:
        sums: [9] float64, in the order of ``_SUMS``.
        largest: [3] float64, in the order of ``_LARGEST``.
    """

    sums: Tensor
    largest: Tensor

    @classmethod
    def empty(cls) -> LossMetrics:
        """The neutral element of ``merge``."""
        return cls(torch.zeros(len(_SUMS), dtype=torch.float64), torch.zeros(len(_LARGEST), dtype=torch.float64))

    @classmethod
    def measure(
        cls,
        mask: Tensor,
        ratio: Tensor,
        clipped: Tensor,
        kl: Tensor | None,
        entropy: Tensor | None,
        gap: Tensor | None,
        cap: float | None,
    ) -> LossMetrics:
        """Measure one micro-batch; all [B, R]. ``gap`` is log π_old − log π_rollout, ``cap`` is C."""
        zero = ratio.new_zeros(())
        ratios = ratio[mask]
        gaps = torch.zeros_like(ratios) if gap is None else gap[mask].detach()
        importance = gaps.exp()
        sums = (
            mask.sum(),
            mask.any(1).sum(),
            (clipped & mask).sum(),
            zero if kl is None else kl[mask].sum(),
            zero if entropy is None else entropy[mask].sum(),
            ratios.sum(),
            gaps.abs().sum(),
            importance.sum(),
            zero if cap is None else (importance > cap).sum(),
        )
        largest = (ratios.max(), gaps.abs().max(), (1 / ratios).max())
        double = torch.float64
        return cls(torch.stack([s.to(double) for s in sums]).cpu(), torch.stack([v.to(double) for v in largest]).cpu())

    def merge(self, other: LossMetrics) -> LossMetrics:
        """Metrics of both micro-batches together."""
        return LossMetrics(self.sums + other.sums, torch.maximum(self.largest, other.largest))

    def as_dict(self) -> dict[str, float]:
        """Means over tokens, and extremes.

        Keys: tokens, sequences, length (mean tokens of a response), clip_share, kl (k3, nats a token), entropy (nats),
        ratio_mean, ratio_min, ratio_max, gap_mean and gap_max (|log π_old − log π_rollout|), importance_mean
        (π_old/π_rollout before the cap), importance_capped (share above the cap).
        """
        values = dict(zip(_SUMS, self.sums.tolist(), strict=True))
        extremes = dict(zip(_LARGEST, self.largest.tolist(), strict=True))
        tokens = max(values["tokens"], 1.0)
        inverse = extremes["inverse_ratio_max"]
        return {
            "tokens": values["tokens"],
            "sequences": values["sequences"],
            "length": values["tokens"] / max(values["sequences"], 1.0),
            "clip_share": values["clipped"] / tokens,
            "kl": values["kl"] / tokens,
            "entropy": values["entropy"] / tokens,
            "ratio_mean": values["ratio"] / tokens,
            "ratio_min": 1 / inverse if inverse else 0.0,
            "ratio_max": extremes["ratio_max"],
            "gap_mean": values["gap"] / tokens,
            "gap_max": extremes["gap_max"],
            "importance_mean": values["importance"] / tokens,
            "importance_capped": values["capped"] / tokens,
        }
