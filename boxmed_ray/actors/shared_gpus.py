"""GPUs that a learner rank and a rollout worker share (``resources.colocated``).

What lives here: one bundle of Ray's for each GPU, and what each of the two asks of it. What does not: whether both fit
into its memory (placement/plan.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from boxmed_ray.config import ResourcesConfig

_NAME = "boxmed-shared-gpus"
ROLLOUT_SHARE, LEARNER_SHARE = 0.6, 0.4
"""Ray's books only. Above a half, so that no two rollout workers meet on a GPU: they take any bundle that is free."""


@contextmanager
def shared_gpus(resources: ResourcesConfig, cpus: float) -> Iterator[None]:
    """Hold a GPU for each learner rank and its neighbour, for the duration of the block; nothing where they are apart.

    Args:
        resources: of the run.
        cpus: that each of the two asks for.
    """
    if not resources.colocated:
        yield
        return
    group = placement_group([{"GPU": 1, "CPU": 2 * cpus}] * resources.learner_ranks, strategy="PACK", name=_NAME)
    try:
        yield
    finally:
        remove_placement_group(group)


def rollout_place(resources: ResourcesConfig, cpus: float) -> dict[str, Any]:
    """Ray's options for what a rollout worker occupies."""
    if not resources.colocated:
        return {"num_cpus": cpus, "num_gpus": resources.gpus_per_rollout}
    return _in_bundle(ROLLOUT_SHARE, -1)


def learner_place(rank: int) -> dict[str, Any]:
    """Ray's options for what a learner rank occupies that shares its GPU."""
    return _in_bundle(LEARNER_SHARE, rank)


def _in_bundle(share: float, index: int) -> dict[str, Any]:
    # The bundle has the cores. Asked for by an actor that may go into any bundle, Ray takes them from another one than
    # the GPU, whose learner then waits for ever.
    strategy = PlacementGroupSchedulingStrategy(ray.util.get_placement_group(_NAME), index)
    return {"num_cpus": 0, "num_gpus": share, "scheduling_strategy": strategy}
