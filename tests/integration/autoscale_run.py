"""One SVR stage with real engines on a cluster that scales itself; run by test_autoscale.py in a process of its own.

    python autoscale_run.py ADDRESS FOLDER

Prints one JSON object: every change of the number of nodes and of rollout workers with its time, and the updates.
"""

from __future__ import annotations

import json
import pickle
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from _fault_drills import prepare

from boxmed_ray.config import PoolConfig, RunConfig, ScalingConfig
from boxmed_ray.data.images import ImageStore
from boxmed_ray.events import EventWriter
from boxmed_ray.ray_local import quiet_environment
from boxmed_ray.stages.rollouts import rollout_pool
from boxmed_ray.stages.svr import run_svr
from boxmed_ray.tracking import read_metrics
from tests.integration.autoscale_program import until, watch

STEPS, PROMPTS = 14, 24


def config(base: RunConfig) -> RunConfig:
    """From 1 to 4 workers of half a CPU beside a learner of half: on nodes of one CPU, from one node to three."""
    resources = base.resources.model_copy(
        update={
            "rollout_workers": PoolConfig(min=1, max=4),
            "scaling": ScalingConfig(grow_after_s=2, shrink_after_s=15),
            "max_sequences": 16,
            "phase_timeout_s": 120,
        }
    )
    svr = base.svr.model_copy(
        update={"steps": STEPS, "prompts_per_step": PROMPTS, "group_size": 8, "max_new_tokens": 96}
    )
    return base.model_copy(update={"resources": resources, "svr": svr})


def main(address: str, folder: Path) -> None:
    """Run the stage, then rest until the cluster is as small as it was."""
    quiet_environment()
    prepare(folder)
    case = pickle.loads((folder / "case.pkl").read_bytes())
    settings, place = config(case.config), folder / "run"
    place.mkdir()
    prompts = [replace(case.prompts[number % len(case.prompts)], id=f"p{number}") for number in range(STEPS * PROMPTS)]
    events, images = EventWriter(place / "events.jsonl"), ImageStore(settings.data.image_size, folder / "resized")
    ray.init(address, log_to_driver=False)
    pool = rollout_pool(settings, lambda: case.model, images, events)
    moments: list[tuple[float, int, int]] = []
    done = threading.Event()
    pool.launch()
    watcher = threading.Thread(target=watch, args=(pool, done, moments))
    try:
        pool.wait_ready()
        watcher.start()
        run_svr(settings, case.model, place, prompts, pool, place / "metrics.jsonl", events)
        until(lambda: moments[-1][1:] == (1, 1), "one node with one worker")
    finally:
        done.set()
        if watcher.ident is not None:
            watcher.join()
        pool.shutdown()
    lines: list[dict[str, Any]] = read_metrics(place / "metrics.jsonl")
    print(json.dumps({"moments": moments, "updates": [line["step"] for line in lines]}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
