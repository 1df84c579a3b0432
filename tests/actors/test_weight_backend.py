"""Which way weights travel, by where learner and workers are."""

from __future__ import annotations

from typing import Any

import pytest

from boxmed_ray.actors.weight_backend import BackendError, Layout, choose_backend

HERE = frozenset({"one"})
BOTH = frozenset({"one", "two"})
GPU_0, GPU_1 = frozenset({"one/0"}), frozenset({"one/1"})


def layout(**facts: Any) -> Layout:
    """The learner on host one, no GPUs."""
    return Layout(**{"learner_node": "one", "nodes": HERE, **facts})


@pytest.mark.parametrize(
    ("facts", "way"),
    [
        ({}, "shm"),
        ({"nodes": BOTH}, "object_store"),
        ({"nodes": frozenset({"two"})}, "object_store"),
        ({"adapter": True}, "lora"),
        ({"adapter": True, "nodes": BOTH, "learner_gpus": GPU_0, "worker_gpus": GPU_1}, "lora"),
        ({"learner_gpus": GPU_0, "worker_gpus": GPU_1}, "nccl"),
        ({"learner_gpus": GPU_0, "worker_gpus": frozenset({"two/0"}), "nodes": BOTH}, "nccl"),
        ({"learner_gpus": GPU_0, "worker_gpus": GPU_0}, "ipc"),
        ({"learner_gpus": GPU_0 | GPU_1, "worker_gpus": GPU_1}, "ipc"),
        ({"learner_gpus": GPU_0, "worker_gpus": GPU_0 | GPU_1}, "shm"),  # neither reaches both workers
        ({"learner_gpus": GPU_0}, "shm"),
        ({"learner_gpus": GPU_0, "worker_gpus": GPU_1, "checked": True}, "shm"),
    ],
)
def test_by_itself_the_cheapest_way_that_reaches_every_worker_is_taken(facts: dict[str, Any], way: str) -> None:
    assert choose_backend("auto", layout(**facts)) == way
    assert choose_backend(way, layout(**facts)) == way  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wish", "facts", "message"),
    [
        ("shm", {"nodes": BOTH}, "other hosts than the learner's; svr.push=object_store"),
        ("nccl", {}, "need GPUs; set resources.gpus_per_learner"),
        ("ipc", {"learner_gpus": GPU_0}, "need GPUs"),
        ("nccl", {"learner_gpus": GPU_0, "worker_gpus": GPU_0}, "share one; svr.push=ipc"),
        ("ipc", {"learner_gpus": GPU_0, "worker_gpus": GPU_1}, "a worker has another; svr.push=nccl"),
        ("nccl", {"learner_gpus": GPU_0, "worker_gpus": GPU_1, "checked": True}, "check_weights=false"),
        ("lora", {}, "train LoRA on the language model and nothing else"),
        ("shm", {"adapter": True}, "started for adapters take nothing else"),
    ],
)
def test_a_way_that_does_not_fit_is_refused_with_a_remedy(wish: Any, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=f"svr.push = '{wish}': .*{message}.*svr.push=auto"):
        choose_backend(wish, layout(**facts))
