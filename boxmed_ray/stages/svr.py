"""SVR as a stage: engines up, the loop, the model out; a lost learner is started afresh.

What lives here: starting and ending what the loop needs, and going on from the last checkpoint, also inside one
run. What does not: the loop (reinforce.py), the rollout pool (rollouts.py), which outlives the stage.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import ray

from boxmed_ray.actors.learner_group import LearnerError, LearnerGroup
from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_worker import RayWorker
from boxmed_ray.actors.reward import RewardWorker
from boxmed_ray.actors.types import Prompt
from boxmed_ray.actors.weight_push import WeightPush
from boxmed_ray.config import RunConfig
from boxmed_ray.data.mixture import TASKS
from boxmed_ray.events import EventWriter
from boxmed_ray.stages.cheating import FILE as WATCHED
from boxmed_ray.stages.cheating import Watch, watched
from boxmed_ray.stages.reinforce import STAGE, Reinforcement, reinforce
from boxmed_ray.stages.rollouts import handles, limits, pace
from boxmed_ray.tracking import MetricsWriter

log = logging.getLogger(__name__)
_RESTARTS = 3
"""Learners that may be lost without a checkpoint in between."""


def run_svr(
    config: RunConfig,
    backbone: Path,
    out: Path,
    prompts: Sequence[Prompt],
    rollouts: Pool,
    metrics: Path,
    events: EventWriter,
    image_cache: Path | None = None,
) -> None:
    """The whole stage: start learner and rewards, go on from the last checkpoint if there is one, write the model.

    A learner that is lost takes its weights with it: a new one goes back to the last checkpoint and does again
    what came after it. At staleness 0 that gives what an undisturbed run would have given.

    Args:
        config: of the run.
        backbone: what MCL left; also the frozen reference.
        out: gets ``checkpoints`` and ``model``.
        prompts: of all updates, ``svr.draws`` for each.
        rollouts: workers that are ready, on ``backbone``.
        metrics: metrics.jsonl of the run.
        events: events.jsonl of the run.
        image_cache: folder of resized images (data/images.py), or None.

    Raises:
        DriftError: the watch has rung, and ``svr.watch.on_alarm`` says stop; a checkpoint is on disk.
        LearnerError: learners are lost again and again without getting to another checkpoint.
    """
    learner, rewards = LearnerGroup(config, backbone, image_cache), reward_pool(config, events)
    push = WeightPush(learner, config.resources.phase_timeout_s, lambda: handles(rollouts))
    loop = Reinforcement(config, rollouts, rewards, learner, push, events)
    checkpoints, lost, last = out / "checkpoints", 0, -1
    try:
        learner.launch()
        rewards.launch()
        learner.wait_ready()
        rewards.wait_ready()
        while True:
            start, state = learner.load_checkpoint(checkpoints) or (0, None)
            lost, last = (lost, last) if start == last else (0, start)
            loop.start()
            watch = Watch(config, rewards, events, metrics.with_name(WATCHED), start, (state or {}).get("watch"))
            try:
                with closing(watch), MetricsWriter.resume(metrics, STAGE, start) as writer:
                    reinforce(
                        loop, prompts, start=start, checkpoints=checkpoints, writer=writer, watch=watch, state=state
                    )
                break
            except LearnerError as error:
                lost += 1
                if lost == _RESTARTS:
                    raise
                log.warning("the learner was lost: %s", error)
                events.write("learner", message=f"lost; starting it afresh: {str(error).splitlines()[0]}")
                push.shutdown()
                learner.start()
        learner.save_model(out / "model")
    finally:
        rollouts.refresh(lambda _name, _worker: None)
        push.shutdown()
        learner.shutdown()
        rewards.shutdown()


def reward_pool(config: RunConfig, events: EventWriter) -> Pool:
    """The run's reward workers, not yet launched."""
    actor = ray.remote(RewardWorker).options(num_cpus=config.resources.cpus_per_reward, max_restarts=0)

    routes = {TASKS[task]: weights for task, weights in config.svr.routes.items()}
    measuring = {TASKS[task]: names for task, names in watched(config).items()}

    def spawn(_: int) -> RayWorker:
        handle: Any = actor.remote(
            routes, config.data.coordinates, config.data.image_size, config.scorers.paths, measuring
        )
        return RayWorker(handle)

    resources = config.resources
    return Pool(
        "reward",
        spawn,
        limits(resources.reward_workers),
        timeout_s=resources.phase_timeout_s,
        start_timeout_s=resources.scaling.start_timeout_s,
        max_tries=resources.max_tries,
        pace=pace(resources.scaling),
        on_event=events.pool,
    )
