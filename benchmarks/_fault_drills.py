"""One small SVR stage in a process of its own, with something done to it while it runs.

What lives here: the case, the drills, and the comparison with a run that nothing was done to. What does not:
the table of them (faults.py), what is required of each (tests/integration/test_faults.py).

Everything is real: Ray, vLLM, DeepSpeed, processes and the signals they get. Only the poisoned sample is made, by
a rollout worker that ends its own process when it is asked that prompt.

    python benchmarks/_fault_drills.py FOLDER DRILL
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from _common import say
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from boxmed_ray.actors.rollout import RolloutActor
from boxmed_ray.actors.types import Group, Prompt
from boxmed_ray.config import DataConfig, ModelConfig, ResourcesConfig, RunConfig, SVRConfig
from boxmed_ray.data.examples import corpus, ground_prompts
from boxmed_ray.data.images import ImageStore
from boxmed_ray.data.load import load_studies
from boxmed_ray.events import EventWriter, read_events
from boxmed_ray.model.tiny import build_tiny
from boxmed_ray.ray_local import quiet_environment, ray_session
from boxmed_ray.stages import rollouts
from boxmed_ray.stages.evaluation import prompt_of
from boxmed_ray.stages.svr import run_svr
from boxmed_ray.tracking import read_metrics
from rewards.sample import Sample

_STEPS, _ACT_AFTER = 6, 2
_WATCHDOG_S = 20.0
_BLOCK = 16 << 20
_OUTWARD = ("_s", "time", "rollout_workers")
"""Endings of metrics that tell how a run went and not what it learned."""


@dataclass(frozen=True)
class Case:
    """What all drills run on: config, model folder, prompts."""

    config: RunConfig
    model: Path
    prompts: Sequence[Prompt]

    @property
    def poison(self) -> str:
        """Of the third update."""
        return self.prompts[_ACT_AFTER * self.config.svr.prompts_per_step + 1].id


def prepare(folder: Path) -> None:
    """Make the case below ``folder``."""
    workers: Any = {"rollout_workers": 1, "reward_workers": 1}
    config = RunConfig(
        name="drill",
        data=DataConfig(kind="phantom", train_studies=16, test_studies=4),
        model=ModelConfig(hidden_size=64, layers=2, vision_hidden_size=64, vision_layers=1),
        svr=SVRConfig(
            steps=_STEPS, prompts_per_step=4, group_size=4, max_new_tokens=48, checkpoint_every=2, lr=1e-3,
            rewards={f"{Path(__file__).stem}:vowels": 1.0},
        ),
        resources=ResourcesConfig(
            train_workers=1, learner_ranks=1, threads=1, phase_timeout_s=_WATCHDOG_S, kv_cache_gb=0.1, **workers
        ),
    )  # fmt: skip
    dataset = load_studies(config.data, config.seed, folder / "data")
    examples = ground_prompts(dataset.split("train"), _STEPS * 4, none_share=0.05, seed=config.seed)
    build_tiny(config.model, config.data.image_size, corpus(dataset.split("train")), config.seed, folder / "model")
    case = Case(config, (folder / "model").resolve(), [prompt_of(example) for example in examples])
    (folder / "case.pkl").write_bytes(pickle.dumps(case))


def vowels(batch: Sequence[Sample]) -> list[float]:
    """A reward that an untrained model's answers differ in, so that every update changes the parameters."""
    return [sum(letter in "aeiou" for letter in sample.text) / 100 for sample in batch]


class PoisonedActor(RolloutActor):
    """A rollout worker that one prompt ends the process of."""

    poison = ""

    def __init__(self, *args: Any, poison: str) -> None:
        super().__init__(*args)
        self._poison = poison

    def generate_groups(self, prompts: Sequence[Prompt], **options: Any) -> list[Group]:
        """As the real one, but for that prompt."""
        if any(prompt.id == self._poison for prompt in prompts):
            os._exit(1)
        return super().generate_groups(prompts, **options)


# What is done; each gets the folder of the run and runs beside it.


def _wait_for_update(run: Path, count: int = _ACT_AFTER) -> None:
    """Until that many updates are on record; the next one is then being generated."""
    while len(read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else []) < count:
        time.sleep(0.01)


def _actors(kind: str) -> list[psutil.Process]:
    """Processes of this run's Ray that hold an actor of that class."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = "".join(process.cmdline()[:1])
        except psutil.Error:
            continue
        if title.startswith(f"ray::{kind}"):
            found.append(process)
    return found


def _signal(kind: str, number: int) -> Callable[[Path], None]:
    def act(run: Path) -> None:
        _wait_for_update(run)
        (process,) = _actors(kind)
        say(f"{signal.Signals(number).name} to {kind} {process.pid}")
        process.send_signal(number)

    return act


def _fill_store(run: Path) -> None:
    """Put half as much again into the object store as it holds, and keep it."""
    _wait_for_update(run)
    size = int(ray.cluster_resources()["object_store_memory"])
    _HELD.extend(ray.put(np.zeros(_BLOCK, np.uint8)) for _ in range(size * 3 // 2 // _BLOCK))
    say(f"the object store of {size >> 20} MiB is full")


_HELD: list[Any] = []


def _remove_node(run: Path) -> None:
    """End the raylet, and with it everything, of the node on which the rollout worker is."""
    _wait_for_update(run)
    (worker,) = _actors("RolloutActor")
    raylet = worker.parent()
    assert raylet is not None
    say(f"ending node {raylet.pid}")
    raylet.kill()


DRILLS: dict[str, Callable[[Path], None] | None] = {
    "undisturbed": None,
    "rollout_killed": _signal("RolloutActor", signal.SIGKILL),
    "engine_hangs": _signal("RolloutActor", signal.SIGSTOP),
    "reward_killed": _signal("RewardWorker", signal.SIGKILL),
    "learner_killed": _signal("LearnerRank", signal.SIGKILL),
    "object_store_full": _fill_store,
    "node_removed": _remove_node,
    "poisoned_sample": None,
    "driver_killed": None,
}


def run(folder: Path, drill: str) -> None:
    """Run the stage of ``folder`` with ``drill`` done to it, or go on with it; times go to ``times.jsonl``."""
    case: Case = pickle.loads((folder / "case.pkl").read_bytes())
    config, place = case.config, folder / drill
    place.mkdir(exist_ok=True)
    quiet_environment()
    events = EventWriter(place / "events.jsonl")
    began = time.monotonic()
    with _cluster(drill):
        if drill == "poisoned_sample":
            _poison(case.poison)
            config = config.model_copy(update={"resources": config.resources.model_copy(update={"max_tries": 1})})
        images = ImageStore(config.data.image_size, folder / "resized")
        pool = rollouts.rollout_pool(config, lambda: case.model, images, events)
        pool.launch()
        try:
            pool.wait_ready()
            act = DRILLS[drill]
            if act is not None:
                threading.Thread(target=act, args=(place,), daemon=True).start()
            run_svr(config, case.model, place, case.prompts, pool, place / "metrics.jsonl", events)
        finally:
            pool.shutdown()
    (place / "seconds").write_text(str(time.monotonic() - began))


@contextmanager
def _cluster(drill: str) -> Iterator[None]:
    if drill != "node_removed":
        with ray_session(num_cpus=4):
            yield
        return
    from ray.cluster_utils import Cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
        ray.init(cluster.address, log_to_driver=False)
        # Half of each is taken, so that one holds the learner, one the rollout worker, and one is to spare.
        taken = [_half(node.node_id) for node in nodes]
        yield
        del taken
    finally:
        ray.shutdown()
        cluster.shutdown()


def _half(node: str) -> Any:
    """An actor on ``node`` that does nothing."""

    class Nothing:
        pass

    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Nothing).options(num_cpus=0.5, scheduling_strategy=where).remote()


def _poison(prompt: str) -> None:
    class Poisoned(PoisonedActor):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, poison=prompt)

    rollouts.RolloutActor = Poisoned  # type: ignore[misc]


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        survived: the stage ended and left its model.
        seconds: from the start of Ray to its end.
        lines: metrics by update, without times and numbers of workers.
        digest: of the model's weights.
        lost: prompts listed as given up.
        events: in words.
    """

    survived: bool
    seconds: float
    lines: list[dict[str, Any]]
    digest: str
    lost: list[str]
    events: list[str]


def outcome(place: Path) -> Outcome:
    """Read what a run left in its folder."""
    model = place / "model" / "model.safetensors"
    lines = read_metrics(place / "metrics.jsonl")
    events = read_events(place / "events.jsonl")
    return Outcome(
        survived=model.is_file(),
        seconds=float((place / "seconds").read_text()) if (place / "seconds").is_file() else float("nan"),
        lines=[{key: value for key, value in line.items() if not key.endswith(_OUTWARD)} for line in lines],
        digest=hashlib.sha256(model.read_bytes()).hexdigest() if model.is_file() else "",
        lost=[prompt for event in events if event["event"] == "lost" for prompt in event["prompts"]],
        events=[event["message"] for event in events if "message" in event],
    )


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
