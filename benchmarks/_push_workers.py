"""What the weight-push benchmark asks of processes: workers that only receive, the peer, copying memory, pinning.

What lives here: those. What does not: the push (boxmed_ray/actors/), vLLM's workers (boxmed_ray/actors/rollout.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_PAGE = 4096


class Receiver:
    """Has every byte of a version readable when phase UPDATE ends: each page is mapped, and a byte of it read."""

    def __init__(self) -> None:
        from boxmed_ray.actors.weight_file import WeightFiles

        self._files = WeightFiles()

    def ready(self) -> bool:
        """Answers once the process is up."""
        return True

    def weight_phase(self, phase: str, payload: Mapping[str, Any]) -> None:
        """As RolloutActor's."""
        if phase != "update":
            return
        if "path" in payload:
            read = self._files.open(Path(payload["path"]))
            for _, data in read:
                _touch(data)
            read.close()
        else:
            from boxmed_ray.actors.weight_store import fetch

            for _, data in fetch(payload["layout"], payload["chunks"]):
                _touch(data)

    def get_torch(self, references: list[Any]) -> float:
        """The peer's side: seconds until a state dict of torch tensors is there."""
        import ray

        began = time.perf_counter()
        for tensor in ray.get(references[0]).values():
            _touch(tensor.reshape(-1).view(dtype=__import__("torch").uint8).numpy())
        return time.perf_counter() - began


def _touch(data: Any) -> int:
    return int(data[::_PAGE].sum(dtype=np.int64))


def memcpy_rate(_: Any, nbytes: int = 512 << 20, repeats: int = 3) -> list[float]:
    """Bytes a second of a copy between two arrays that are far larger than any cache, in one thread."""
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    rates = []
    for _turn in range(repeats):
        began = time.perf_counter()
        np.copyto(target, source)
        rates.append(nbytes / (time.perf_counter() - began))
    return rates


def put_torch(rank: Any) -> tuple[float, list[Any]]:
    """The peer's side, on the learner: seconds of putting its state dict as torch tensors, and the reference."""
    import ray

    began = time.perf_counter()
    reference = ray.put({name: parameter.detach() for name, parameter in rank._model.named_parameters()})
    return time.perf_counter() - began, [reference]


def pin(_: Any, core: int) -> int:
    """Pin every thread of the calling process to ``core``; returns its resident memory in MB."""
    import psutil

    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})
    return psutil.Process().memory_info().rss >> 20
