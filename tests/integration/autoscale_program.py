"""A pool of light actors on a cluster that scales itself; run by test_autoscale.py in a process of its own.

Prints one JSON object: nodes that worked, every change of the number of nodes and workers with its time, and what
the pool said.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_worker import RayWorker
from boxmed_ray.actors.scaling import Limits, Pace

LIMITS = Limits(1, 3)
PATIENCE_S = 240.0
"""For nodes to come or go: a busy machine takes its time to start Ray's processes."""


class Worker:
    """Sleeps, and says on which node."""

    def ready(self) -> bool:
        return True

    def work(self, seconds: float) -> str:
        time.sleep(seconds)
        return str(ray.get_runtime_context().get_node_id())


def nodes() -> int:
    """That can run a worker: the head cannot."""
    return sum(node["Alive"] and bool(node["Resources"].get("CPU")) for node in ray.nodes())


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not come about")
        time.sleep(0.2)


def watch(pool: Pool, done: threading.Event, moments: list[tuple[float, int, int]]) -> None:
    began = time.monotonic()
    ended = False
    while not ended:
        ended = done.wait(0.2)  # looks once more after it: what ended the wait may be newer than the last look
        seen = (nodes(), len(pool.workers))
        if not moments or moments[-1][1:] != seen:
            moments.append((round(time.monotonic() - began, 1), *seen))


def drive(pool: Pool) -> set[str]:
    """Load until every worker there may be has worked, then rest until all but the fewest are gone."""
    places: set[str] = set()
    end = time.monotonic() + PATIENCE_S
    while len(places) < LIMITS.max and time.monotonic() < end:
        places |= set(pool.run("work", [1.0] * 12))
    until(lambda: nodes() == len(pool.workers) == LIMITS.min, "one node with one worker")
    return places


def main(address: str) -> dict[str, Any]:
    ray.init(address=address, log_to_driver=False)
    actor = ray.remote(Worker).options(num_cpus=1, max_restarts=0)
    events: list[str] = []
    moments: list[tuple[float, int, int]] = []
    done = threading.Event()
    pool = Pool(
        "rollout",
        lambda _: RayWorker(actor.remote()),
        LIMITS,
        timeout_s=120,
        start_timeout_s=PATIENCE_S,
        pace=Pace(grow_after_s=1, shrink_after_s=6),
        on_event=events.append,
    )
    until(lambda: nodes() == LIMITS.min, "the first node")
    pool.launch()
    watcher = threading.Thread(target=watch, args=(pool, done, moments))
    try:
        pool.wait_ready()
        watcher.start()
        places = drive(pool)
    finally:
        done.set()
        if watcher.ident is not None:
            watcher.join()
        pool.shutdown()
        ray.shutdown()
    return {"places": sorted(places), "moments": moments, "events": events}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
