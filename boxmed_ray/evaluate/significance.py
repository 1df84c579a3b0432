"""Is one model better than another on the same prompts? One-tailed Wilcoxon signed-rank, as the paper asks.

What lives here: pairing and the test. What does not: the metric that is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import wilcoxon

from boxmed_ray.evaluate.grounding import GroundingRecord


def one_tailed_wilcoxon(better: Mapping[str, float], worse: Mapping[str, float]) -> float:
    """The p value of the null hypothesis that ``better`` is not above ``worse``, paired by key, in (0, 1].

    Pairs without a difference are left out (Wilcoxon's own way); p is 1 when none differs.

    Raises:
        ValueError: the two do not hold the same keys, or none at all.
    """
    if better.keys() != worse.keys() or not better:
        raise ValueError(
            f"the two sides must hold the same prompts: {len(better)} and {len(worse)} prompts, "
            f"{len(better.keys() & worse.keys())} in common"
        )
    differences = np.array([better[key] - worse[key] for key in better])
    if not differences.any():
        return 1.0
    return float(wilcoxon(differences, alternative="greater", zero_method="wilcox").pvalue)


def compare(better: Sequence[GroundingRecord], worse: Sequence[GroundingRecord]) -> float:
    """One-tailed p that the greedy IoU of ``better`` is above that of ``worse``, over prompts with a target box."""
    sides = [{record.prompt_id: record.iou for record in side if record.target} for side in (better, worse)]
    for side, ious in zip((better, worse), sides, strict=True):
        if len(ious) != sum(bool(record.target) for record in side):
            raise ValueError("two records of one side share a prompt_id; every prompt needs its own")
    return one_tailed_wilcoxon(*sides)
