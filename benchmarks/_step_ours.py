"""Our side of the step benchmark: the product's own loop, timed from the end of one step to the end of the next.

What lives here: putting the loop together as the pipeline does, pinned to one core, and its clock.
What does not: the loop (boxmed_ray/stages/reinforce.py).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from _common import cpu_seconds, median, pin_tree
from _step_cases import Case

from boxmed_ray.actors.learner_group import LearnerGroup
from boxmed_ray.actors.weight_push import WeightPush
from boxmed_ray.data.images import ImageStore
from boxmed_ray.events import EventWriter
from boxmed_ray.ray_local import quiet_environment, ray_session
from boxmed_ray.stages.reinforce import Reinforcement, reinforce
from boxmed_ray.stages.rollouts import handles, rollout_pool
from boxmed_ray.stages.svr import reward_pool
from boxmed_ray.tracking import MetricsWriter

PHASES = ("generate", "score", "learn", "push")


class Stopwatch(MetricsWriter):
    """Writes metrics as a run does; notes when each step has ended, and the processor time after step ``warm``."""

    def __init__(self, path: Path, warm: int) -> None:
        super().__init__(path)
        self.warm = warm
        self.ends: list[float] = []
        self.steps: list[dict[str, float]] = []
        self.cpu_s: dict[str, float] = {}

    def write(
        self, stage: str, step: int, values: Mapping[str, SupportsFloat], weight_version: int | None = None
    ) -> None:
        """Write, and note."""
        super().write(stage, step, values, weight_version)
        self.ends.append(time.perf_counter())
        self.steps.append({name: float(value) for name, value in values.items()})
        if len(self.ends) == self.warm:
            self.cpu_s = cpu_seconds()
            self.ends[-1] = time.perf_counter()


def measure(case: Case, warm: int, core: int) -> dict[str, Any]:
    """Run all steps of ``case`` and time those after the first ``warm``."""
    quiet_environment()
    config = case.config
    with tempfile.TemporaryDirectory() as temporary, ray_session(num_cpus=4):
        folder = Path(temporary)
        events, images = EventWriter(None), ImageStore(config.data.image_size, folder / "resized")
        rollouts = rollout_pool(config, lambda: case.model, images, events)
        learner = LearnerGroup(config, case.model)
        rewards = reward_pool(config, events)
        began = time.perf_counter()
        try:
            for part in (rollouts, learner, rewards):
                part.launch()
            for part in (rollouts, learner, rewards):
                part.wait_ready()
            start_s = time.perf_counter() - began
            weights = WeightPush(learner, config.resources.phase_timeout_s, lambda: handles(rollouts))
            loop = Reinforcement(config, rollouts, rewards, learner, weights)
            start_cpu_s = cpu_seconds()
            loop.start()
            pin_tree(core)
            with Stopwatch(folder / "metrics.jsonl", warm) as clock:
                reinforce(loop, case.prompts, start=0, checkpoints=folder / "checkpoints", writer=clock)
            used = {actor: value - clock.cpu_s.get(actor, 0.0) for actor, value in cpu_seconds().items()}
        finally:
            learner.shutdown()
            rewards.shutdown()
            rollouts.shutdown()
    return _summary(clock, used) | {
        "start_s": round(start_s, 1),
        "start_cpu_s": {actor: round(value, 1) for actor, value in start_cpu_s.items()},
    }


def _summary(clock: Stopwatch, used: dict[str, float]) -> dict[str, Any]:
    walls = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)][clock.warm - 1 :]
    steps = clock.steps[clock.warm :]
    shares = [1 - sum(step[f"{p}_s"] for p in PHASES) / wall for step, wall in zip(steps, walls, strict=True)]
    parts = sorted(name for name in steps[0] if name.startswith("learn_") and name != "learn_s")
    return {
        "step_s": median(walls),
        "cpu_s": round(sum(used.values()) / len(walls), 4),
        "cpu_parts_s": {
            actor: round(value / len(walls), 4) for actor, value in used.items() if value / len(walls) > 1e-3
        },
        "steps_s": [round(wall, 4) for wall in walls],
        "phases_s": {phase: median([step[f"{phase}_s"] for step in steps]) for phase in PHASES},
        "learn_parts_s": {name[len("learn_") : -2]: median([step[name] for step in steps]) for name in parts},
        "unaccounted_share": median(shares),
        "response_tokens": round(sum(step["response_tokens"] for step in steps) / len(steps), 2),
        "truncated": round(sum(step["truncated"] for step in steps) / len(steps), 4),
        "reward": round(sum(step["reward"] for step in steps) / len(steps), 4),
    }
