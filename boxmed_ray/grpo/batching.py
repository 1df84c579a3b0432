"""Dealing a batch of groups to learner ranks and micro-batches.

What lives here: which rank learns which groups, in which order. What does not: the groups themselves, gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MicroBatch:
    """Groups of one forward and backward pass.

    Attributes:
        groups: indices into the batch.
        counts: False for a filler: run it and multiply its loss by 0, so that a rank with fewer groups takes part in
            every collective operation of the backward pass.
    """

    groups: tuple[int, ...]
    counts: bool = True


def plan(costs: Sequence[int], ranks: int, budget: int, max_groups: int | None = None) -> list[list[MicroBatch]]:
    """Deal groups to ranks, so that ranks are equally busy and have the same number of micro-batches.

    Longest first to the least busy rank (Graham 1969: at most 4/3 of the best makespan); inside a rank the groups are
    cut into micro-batches of about equal cost, none above ``budget`` unless a single group is.

    Args:
        costs: tokens of each group, prompt once and all responses.
        ranks: learner ranks, at least 1.
        budget: tokens of a micro-batch at most.
        max_groups: groups of a micro-batch at most.

    Returns:
        For each rank its micro-batches, equally many on every rank; every group counts exactly once.

    Raises:
        ValueError: no groups, or ranks or budget below 1.
    """
    if not costs or ranks < 1 or budget < 1:
        raise ValueError(f"{len(costs)} groups, {ranks} ranks, budget {budget}: each must be at least 1")
    shares: list[list[int]] = [[] for _ in range(ranks)]
    busy = [0] * ranks
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = busy.index(min(busy))
        shares[rank].append(index)
        busy[rank] += costs[index]
    cut = [_cut(share, costs, budget, max_groups) for share in shares]
    most = max(map(len, cut))
    filler = MicroBatch((min(range(len(costs)), key=lambda i: costs[i]),), counts=False)
    return [micro + [filler] * (most - len(micro)) for micro in cut]


def _cut(share: list[int], costs: Sequence[int], budget: int, max_groups: int | None) -> list[MicroBatch]:
    """Cut one rank's groups into the fewest micro-batches of about equal cost that keep the limits."""
    if not share:
        return []
    total = sum(costs[index] for index in share)
    parts = max(math.ceil(total / budget), math.ceil(len(share) / (max_groups or len(share))))
    while True:
        bins: list[list[int]] = [[] for _ in range(parts)]
        loads = [0] * parts
        for index in share:
            open_bins = [b for b in range(parts) if not max_groups or len(bins[b]) < max_groups]
            best = min(open_bins, key=lambda b: loads[b])
            bins[best].append(index)
            loads[best] += costs[index]
        if parts >= len(share) or all(load <= budget or len(b) == 1 for load, b in zip(loads, bins, strict=True)):
            return [MicroBatch(tuple(b)) for b in bins if b]
        parts += 1
