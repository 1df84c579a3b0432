"""Run by test_shared_gpus.py: a Ray with three pretended GPUs, on which learner and rollout actors share."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

import ray

from boxmed_ray.actors.shared_gpus import learner_place, rollout_place, shared_gpus
from boxmed_ray.config import PoolConfig, ResourcesConfig

RESOURCES = ResourcesConfig(
    learner_ranks=3, rollout_workers=PoolConfig(min=3, max=3), gpus_per_learner=1, gpus_per_rollout=1, colocated=True
)


class Actor:
    def gpus(self) -> list[int]:
        return ray.get_gpu_ids()


def main() -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(
        address="local", num_cpus=2, num_gpus=3, include_dashboard=False, object_store_memory=80 << 20,
        log_to_driver=False, _temp_dir=tempfile.mkdtemp(prefix="bx-gpu-"),
    )  # fmt: skip
    actor: Any = ray.remote(Actor)

    def new(options: dict[str, Any]) -> Any:
        return actor.options(**options).remote()

    with shared_gpus(RESOURCES, 0.1):
        rollouts = [new(rollout_place(RESOURCES, 0.1)) for _ in range(3)]
        learners = [new(learner_place(rank)) for rank in range(3)]
        found = {"rollouts": gpus(rollouts), "learners": gpus(learners)}
        ray.kill(rollouts[1])
        found["afresh"] = gpus([new(rollout_place(RESOURCES, 0.1))])
    apart = new(rollout_place(ResourcesConfig(gpus_per_rollout=2), 0.1))
    found["apart"] = [ray.get(apart.gpus.remote(), timeout=60)]
    print(json.dumps(found))
    ray.shutdown()


def gpus(actors: list[Any]) -> list[list[int]]:
    return ray.get([each.gpus.remote() for each in actors], timeout=60)


if __name__ == "__main__":
    main()
