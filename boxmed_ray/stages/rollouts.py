"""The rollout pool of a run: which engine a worker holds and what Ray gives it.

What lives here: from config to actors. What does not: the engine (actors/vllm_engine.py), the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_worker import RayWorker
from boxmed_ray.actors.rollout import RolloutActor
from boxmed_ray.actors.rollout_io import EngineCrashedError, EngineOptions, OutOfServiceError
from boxmed_ray.actors.scaling import Limits, Pace
from boxmed_ray.actors.shared_gpus import rollout_place
from boxmed_ray.actors.weight_fleet import Phase
from boxmed_ray.config import PoolConfig, RunConfig, ScalingConfig
from boxmed_ray.data.images import ImageStore
from boxmed_ray.events import EventWriter

CPUS_PER_THREAD = 0.5
"""Ray's books only: generation and learning take turns on the same cores."""
_SEEDS = 1 << 16
"""Between the engines' seeds of two runs."""


def rollout_pool(
    config: RunConfig, backbone: Callable[[], Path], images: ImageStore, events: EventWriter, lora_rank: int = 0
) -> Pool:
    """The run's rollout workers, not yet launched.

    Args:
        config: of the run.
        backbone: the model folder that a worker starts from, asked anew for each.
        images: where workers find resized images.
        events: told of workers that come and go.
        lora_rank: above 0 the workers serve adapters up to it, and take pushes of adapters only.
    """
    resources = config.resources
    options = EngineOptions(
        max_model_len=config.model.max_length,
        max_sequences=resources.max_sequences,
        kv_cache_gb=resources.kv_cache_gb,
        threads=resources.threads,
        dtype=config.model.dtype,
        lora_rank=lora_rank,
        gpus=resources.gpus_per_rollout,
        tensor_parallel=resources.tensor_parallel,
    )
    cache = None if images.cache is None else str(images.cache)
    # Each group in the engine waits in a thread of the actor.
    groups = max(1, resources.max_sequences // config.svr.group_size)
    actor = rollout_actor().options(
        max_restarts=0,
        max_concurrency=groups + 1,
        **rollout_place(resources, CPUS_PER_THREAD * resources.threads),
    )

    def spawn(number: int) -> RayWorker:
        # Seeds of their own: groups that are sampled side by side must not share their noise.
        own = replace(options, seed=config.seed * _SEEDS + number)
        handle: Any = actor.remote(str(backbone().resolve()), own, images.side, cache)
        return RayWorker(handle)

    return Pool(
        "rollout",
        spawn,
        limits(resources.rollout_workers),
        capacity=resources.max_sequences,
        timeout_s=resources.phase_timeout_s,
        start_timeout_s=resources.scaling.start_timeout_s,
        max_tries=resources.max_tries,
        unfit=(OutOfServiceError,),
        crashes=(EngineCrashedError,),
        pace=pace(resources.scaling),
        on_event=events.pool,
    )


def rollout_actor() -> Any:
    """The remote class of a rollout worker.

    Phases of a push come by threads of their own, one for each: Ray does not keep their order where there are threads,
    and an early one waits for those that go before it.
    """
    return ray.remote(concurrency_groups={"weights": len(Phase)})(RolloutActor)


def handles(pool: Pool) -> dict[str, Any]:
    """Actor handles of the workers, by name."""
    return {name: worker.handle for name, worker in pool.workers.items() if isinstance(worker, RayWorker)}


def limits(config: PoolConfig) -> Limits:
    """Of a pool, as its config has them."""
    return Limits(config.min, config.max)


def pace(config: ScalingConfig) -> Pace:
    """Of a pool, as its config has it."""
    return Pace(config.grow_after_s, config.shrink_after_s)
