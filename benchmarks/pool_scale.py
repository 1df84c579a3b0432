"""The pool, its queue and the update loop at 8, 64 and 256 workers, with engines that are simulated.

Real are both pools, the sampler, drawing ahead, and the loop of updates with its metrics; simulated are what they
call: engines, scorers, learner and weight push (_simulated.py). Response lengths are log-normal with a long tail, an
update has 16 prompts for each engine, which holds 4 at once, and the clock runs 20 times faster than a cluster's.

    python benchmarks/pool_scale.py [--quick] [--updates 4] [--workers 8 64 256] [--staleness 0 1] [--prompts 16]

Over whole updates, without the first and the last, in which the run fills and empties:

- ``utilisation`` (the one that is required to be 0.9): share of its time in which an engine generates. What is missing:
  it loads weights, or has nothing to do.
- ``slots``: share of its slots (a group takes one for each response) that are taken. What is missing beside that: an
  engine ends its old groups before it loads new weights.
- ``sequences``: share of its slots in which a response is being written. What is missing beside that: a group keeps all
  its slots until the longest response ends.
- ``driver_ms_per_group``: processor time of this process without the simulation's, for each group. It holds everything
  but Ray. ``ray_ms_per_group`` is what a group costs that goes through the pool and Ray to an actor and back.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _common import print_result, say, versions
from _simulated import Engine, Held, Learner, Lengths, Scorer, SimulatedWorker, Timer, World

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_worker import RayWorker
from boxmed_ray.actors.scaling import Limits
from boxmed_ray.actors.types import Group, Prompt, Rollout
from boxmed_ray.config import ModelConfig, PoolConfig, ResourcesConfig, RunConfig, SVRConfig, WatchConfig
from boxmed_ray.data.prompts import Task
from boxmed_ray.ray_local import ray_session
from boxmed_ray.stages.reinforce import Reinforcement, reinforce
from boxmed_ray.tracking import MetricsWriter

GROUP = 8
CAPACITY = 32
SCORERS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run under a minute; its figures mean nothing")
    parser.add_argument("--updates", type=int, default=4, help="measured updates (4)")
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 256], help="rollout workers (8 64 256)")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1], help="svr.max_staleness (0 1)")
    parser.add_argument("--prompts", type=int, default=16, help="prompts of an update for each worker (16)")
    parser.add_argument("--speed", type=float, default=World.speed, help="of the clock (20)")
    args = parser.parse_args()
    world = World(speed=50, cap=1024) if args.quick else World(speed=args.speed)
    if args.quick:
        args.updates, args.prompts = 1, 4
    runs = [
        measure(world, count, staleness, args.updates, args.prompts)
        for count in args.workers
        for staleness in args.staleness
    ]
    top = max(args.staleness)
    print_result(
        {
            "name": "pool_scale",
            "versions": versions("ray", "numpy", "boxmed-rl"),
            "threads": 1,
            "repeats": {"updates": args.updates},
            "peer": None,
            "quick": args.quick,
            "world": asdict(world) | {"group_size": GROUP, "capacity": CAPACITY, "scorers": SCORERS},
            "workers": [run for run in runs if run["staleness"] == top],
            "ray_ms_per_group": None if args.quick else through_ray(),
            "others": [run for run in runs if run["staleness"] != top],
        }
    )


@dataclass
class Mark:
    """When an update's learning began, and the processor time of all but the simulation until then."""

    time: float
    driver_s: float


@dataclass
class Run:
    """One run of the loop, and what is taken down of it."""

    world: World
    timer: Timer = field(default_factory=Timer)
    engines: list[Engine] = field(default_factory=list)
    scorers: list[Scorer] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    queued: list[tuple[float, int]] = field(default_factory=list)

    def mark(self, _: int) -> None:
        """Learning begins."""
        simulation_s = self.timer.cpu_s + sum(each.cpu_s for each in [*self.engines, *self.scorers])
        self.marks.append(Mark(time.monotonic(), time.process_time() - simulation_s))

    def pools(self, config: RunConfig) -> tuple[Pool, Pool]:
        """Rollouts and rewards, launched."""
        lengths = Lengths(self.world, seed=0)

        def engine(_: int) -> SimulatedWorker:
            self.engines.append(Engine(self.world, self.timer, lengths, CAPACITY))
            return SimulatedWorker(self.engines[-1])

        def scorer(number: int) -> SimulatedWorker:
            self.scorers.append(Scorer(self.world, self.timer, number))
            return SimulatedWorker(self.scorers[-1])

        count = config.resources.rollout_workers.max
        rollouts = Pool("rollout", engine, Limits(count, count), capacity=CAPACITY, timeout_s=600)
        rewards = Pool("reward", scorer, Limits(SCORERS, SCORERS), timeout_s=600)
        for pool in (rollouts, rewards):
            pool.launch()
            pool.wait_ready()
        return rollouts, rewards

    @contextmanager
    def watching(self, pool: Pool) -> Iterator[None]:
        """Take down the depth of the queue now and then."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                self.queued.append((time.monotonic(), pool.queued // GROUP))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def measure(world: World, count: int, staleness: int, updates: int, prompts: int) -> dict[str, Any]:
    """One run; its figures."""
    per_update = prompts * count
    run, steps = Run(world), updates + 2 + staleness
    config = RunConfig(
        model=ModelConfig(max_length=world.cap + 1024),
        svr=SVRConfig(
            steps=steps,
            prompts_per_step=per_update,
            group_size=GROUP,
            max_new_tokens=world.cap,
            max_staleness=staleness,
            watch=WatchConfig(every=0),  # its scorers would have to be simulated too, and are not what is measured
            checkpoint_every=steps + 1,
        ),
        resources=ResourcesConfig(
            rollout_workers=PoolConfig(min=count, max=count),
            reward_workers=PoolConfig(min=SCORERS, max=SCORERS),
            max_sequences=CAPACITY,
        ),
    )
    source = [Prompt(f"p{i}", Task.GROUND, "nodule", "s", "s.png", 10, 10) for i in range(steps * per_update)]
    learner: Any = Learner(world, run.mark)
    rollouts, rewards = run.pools(config)
    try:
        loop = Reinforcement(config, rollouts, rewards, learner, learner)
        loop.start()
        with tempfile.TemporaryDirectory() as folder, run.watching(rollouts):
            path = Path(folder)
            with MetricsWriter(path / "metrics.jsonl") as writer:
                reinforce(loop, source, start=0, checkpoints=path / "checkpoints", writer=writer)
    finally:
        rollouts.shutdown()
        rewards.shutdown()
    result = {"count": count, "staleness": staleness, "prompts_per_update": per_update} | figures(run, updates)
    say(", ".join(f"{name} {value}" for name, value in result.items()))
    return result


def figures(run: Run, updates: int) -> dict[str, Any]:
    """From the beginning of the second update's learning, over ``updates`` whole ones."""
    first, last = run.marks[1], run.marks[1 + updates]
    window = (first.time, last.time)
    took = last.time - first.time
    groups = [held for engine in run.engines for held in engine.record]
    slots = took * CAPACITY * len(run.engines)
    learned = sum(first.time <= held.end < last.time for held in groups)
    late = [1000 * late for when, late in run.timer.late if first.time <= when < last.time]
    inside = [depth for when, depth in run.queued if window[0] <= when < window[1]]
    return {
        "utilisation": round(statistics.mean(busy_s(engine.record, window) for engine in run.engines) / took, 4),
        "slots": round(sum(len(held.lengths) * overlap(held.begin, held.end, window) for held in groups) / slots, 4),
        "sequences": round(sum(float(written_s(held, window)) for held in groups) / slots, 4),
        "queue_groups": {"mean": round(statistics.mean(inside)), "max": max(inside)},
        "driver_ms_per_group": round(1000 * (last.driver_s - first.driver_s) / learned, 4),
        "driver_share_of_a_core": round((last.driver_s - first.driver_s) / took, 3),
        "simulator_late_ms": {"median": round(statistics.median(late), 2), "max": round(max(late))},
        "seconds_per_update": round(took / updates * run.world.speed, 1),
    }


def overlap(begin: float, end: float, window: tuple[float, float]) -> float:
    """Seconds of [begin, end] in ``window``."""
    return max(0.0, min(end, window[1]) - max(begin, window[0]))


def busy_s(record: Sequence[Held], window: tuple[float, float]) -> float:
    """Seconds of ``window`` in which an engine held anything."""
    total, until = 0.0, window[0]
    for held in sorted(record, key=lambda each: each.begin):
        total += overlap(max(held.begin, until), held.end, window)
        until = max(until, held.end)
    return total


def written_s(held: Held, window: tuple[float, float]) -> Any:
    """Seconds of ``window`` in which responses of a group were being written, summed over them."""
    ends = np.clip(held.begin + held.lengths, *window)
    return (ends - np.clip(held.begin, *window)).sum()


class Answering:
    """An actor that answers with ready-made responses."""

    def __init__(self, rollouts: tuple[Rollout, ...]) -> None:
        self._rollouts = rollouts

    def ready(self) -> bool:
        """At once."""
        return True

    def generate_group(self, prompt: Prompt) -> Group:
        """The same responses to any prompt."""
        return Group(prompt, self._rollouts)


def through_ray(count: int = 500) -> float:
    """Milliseconds of this process's processor time for a group that goes through a pool and Ray."""
    import ray

    tokens = np.zeros(round(World.median_tokens), dtype=np.int64)
    rollouts = tuple(Rollout(tokens, tokens.astype(np.float32), "stop", 0, "") for _ in range(GROUP))
    prompts = [Prompt(f"p{i}", Task.GROUND, "nodule", "s", "s.png", 10, 10) for i in range(count)]
    with ray_session(num_cpus=1):
        actor = ray.remote(Answering).options(num_cpus=0, max_concurrency=CAPACITY // GROUP)
        pool = Pool("ray", lambda _: RayWorker(actor.remote(rollouts)), Limits(2, 2), capacity=CAPACITY, timeout_s=60)
        pool.launch()
        pool.run("generate_group", prompts[:50], cost=GROUP)
        began = time.process_time()
        pool.run("generate_group", prompts, cost=GROUP)
        took = time.process_time() - began
        pool.shutdown()
    return round(1000 * took / count, 3)


if __name__ == "__main__":
    main()
