"""Which way weights travel, chosen by where learner and workers are. Light: imports neither torch, vLLM nor Ray.

What lives here: the names of the ways, and the choice. What does not: finding out where things are (weight_push.py),
the ways themselves (weights.py and its neighbours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Backend = Literal["shm", "object_store", "nccl", "ipc", "lora"]
Wish = Literal["auto", "shm", "object_store", "nccl", "ipc", "lora"]

COLLECTIVE: Final = frozenset[Backend]({"nccl", "ipc"})
"""Ways in which the learner takes part in every delivery; in the others a publication is read without it."""
WORKER_ENGINE: Final[dict[Backend, str]] = {
    "shm": "boxmed", "object_store": "boxmed", "nccl": "nccl", "ipc": "ipc", "lora": "lora",
}  # fmt: skip
"""What receives on the worker: an engine of vLLM's weight-transfer factory, or vLLM's LoRA manager."""


class BackendError(ValueError):
    """A way that was asked for does not fit where things are. The message names the key and the remedy."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where learner and workers are, and what trains.

    Attributes:
        learner_node: of rank 0.
        nodes: on which workers are or may come.
        learner_gpus: of all ranks, named so that no two nodes share a name; empty without.
        worker_gpus: likewise, of the workers.
        adapter: whether LoRA on the language model is all that trains, and workers were started for it.
        checked: whether digests are to be compared, which vLLM's own engines cannot do.
    """

    learner_node: str
    nodes: frozenset[str]
    learner_gpus: frozenset[str] = frozenset()
    worker_gpus: frozenset[str] = frozenset()
    adapter: bool = False
    checked: bool = False


def choose_backend(wish: Wish, layout: Layout) -> Backend:
    """The way that ``wish`` names, or for "auto" the cheapest that reaches every worker.

    Raises:
        BackendError: what was asked for cannot work there.
    """
    if wish == "auto":
        return _cheapest(layout)
    if problem := _problem(wish, layout):
        raise BackendError(f"svr.push = {wish!r}: {problem}; or set svr.push=auto")
    return wish


def _cheapest(layout: Layout) -> Backend:
    ways: tuple[Backend, ...] = ("lora", "ipc", "nccl", "shm")
    return next((way for way in ways if not _problem(way, layout)), "object_store")


def _problem(way: Backend, layout: Layout) -> str | None:
    """Why ``way`` does not fit, with a remedy; None where it does."""
    problem = None
    match way:
        case "lora" if not layout.adapter:
            problem = (
                "the adapter alone is not the whole policy; train LoRA on the language model and nothing else, with "
                "workers that are started for it"
            )
        case "shm" | "object_store" | "nccl" | "ipc" if layout.adapter:
            problem = "workers that are started for adapters take nothing else"
        case "nccl" | "ipc" if not (layout.learner_gpus and layout.worker_gpus):
            problem = "learner and rollout workers need GPUs; set resources.gpus_per_learner and gpus_per_rollout"
        case "nccl" | "ipc" if layout.checked:
            problem = "vLLM's own engine compares no digests; set resources.check_weights=false"
        case "nccl" if layout.learner_gpus & layout.worker_gpus:
            problem = "NCCL joins processes on different GPUs, and learner and workers share one; svr.push=ipc fits"
        case "ipc" if not layout.worker_gpus <= layout.learner_gpus:
            problem = "CUDA IPC reaches workers on the learner's own GPUs, and a worker has another; svr.push=nccl fits"
        case "shm" if not layout.nodes <= {layout.learner_node}:
            problem = "workers are or may come on other hosts than the learner's; svr.push=object_store fits"
    return problem
