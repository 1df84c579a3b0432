"""The rollout pool of a run: which engine a worker holds and what Ray gives it.

What lives here: from config to actors. What does not: the engine (actors/vllm_engine.py), the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from boxmed_ray.actors.pool import ActorPool
from boxmed_ray.actors.rollout import RolloutActor
from boxmed_ray.actors.rollout_io import EngineOptions
from boxmed_ray.config import RunConfig
from boxmed_ray.data.images import ImageStore

_CPUS_PER_THREAD = 0.5
"""Ray's books only: generation and learning take turns on the same cores."""


def rollout_pool(config: RunConfig, backbone: Callable[[], Path], images: ImageStore, lora_rank: int = 0) -> ActorPool:
    """The run's rollout workers, not yet launched.

    Args:
        config: of the run.
        backbone: the model folder that a worker starts from, asked anew for each.
        images: where workers find resized images.
        lora_rank: above 0 the workers serve adapters up to it, and take pushes of adapters only.
    """
    resources = config.resources
    options = EngineOptions(
        seed=config.seed,
        max_model_len=config.model.max_length,
        max_sequences=resources.max_sequences,
        kv_cache_gb=resources.kv_cache_gb,
        threads=resources.threads,
        dtype=config.model.dtype,
        lora_rank=lora_rank,
        gpus=resources.gpus_per_rollout,
    )
    cache = None if images.cache is None else str(images.cache)

    def spawn(_: int) -> Any:
        actor = ray.remote(RolloutActor).options(
            num_cpus=_CPUS_PER_THREAD * resources.threads, num_gpus=resources.gpus_per_rollout, max_restarts=0
        )
        return actor.remote(str(backbone().resolve()), options, images.side, cache)

    return ActorPool("rollout", spawn, resources.rollout_workers, timeout_s=resources.phase_timeout_s)
