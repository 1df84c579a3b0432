"""SVR: the GRPO loop over rollout pool, reward pool and learner.

What lives here: the order of one update (generate, score, learn, push), its timing, its metrics, and
where it stops and goes on. What does not: the maths (grpo/), the engines (actors/).

At staleness 0 every update is learned from rollouts of the weights before it, so the loop is plain
and a run is the same for the same seed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray

from boxmed_ray.actors.learner_group import LearnerGroup
from boxmed_ray.actors.pool import ActorPool
from boxmed_ray.actors.reward import RewardWorker
from boxmed_ray.actors.types import Group, Prompt, ScoredGroup
from boxmed_ray.config import RunConfig
from boxmed_ray.interrupt import finish_first
from boxmed_ray.stages.evaluation import generate
from boxmed_ray.tracking import MetricsWriter, Progress

log = logging.getLogger(__name__)
STAGE = "svr"


class PushFailedError(RuntimeError):
    """Weights did not reach a rollout worker."""


@dataclass
class Clock:
    """Seconds of one update by phase; what no phase claims is ``other``."""

    started: float = field(default_factory=time.monotonic)
    phases: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as ``name``."""
        began = time.monotonic()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began

    def seconds(self) -> dict[str, float]:
        """``<phase>_s`` of every phase, ``other_s`` and ``step_s``."""
        step = time.monotonic() - self.started
        seconds = {f"{name}_s": value for name, value in self.phases.items()}
        return seconds | {"other_s": step - sum(self.phases.values()), "step_s": step}


@dataclass
class Reinforcement:
    """The parts of the loop, put together by the pipeline and by benchmarks alike."""

    config: RunConfig
    rollouts: ActorPool
    rewards: ActorPool
    learner: LearnerGroup

    def step(self, index: int, prompts: Sequence[Prompt]) -> dict[str, float]:
        """One update: generate, score, learn, push.

        Args:
            index: updates done before; seeds the sampling, so that a resumed run samples the same.
            prompts: the update's prompts, one group each.

        Returns:
            Metrics of the update, seconds of its phases among them.
        """
        svr, clock = self.config.svr, Clock()
        with clock.phase("generate"):
            groups = generate(
                self.rollouts,
                prompts,
                self.config,
                n=svr.group_size,
                temperature=svr.temperature,
                max_new_tokens=svr.max_new_tokens,
                seed=self.config.seed * 1_000_003 + index,
            )
        with clock.phase("score"):
            scored = self._score(groups)
        with clock.phase("learn"):
            learned = self.learner.learn(scored)
        with clock.phase("push"):
            self.push()
        tokens = sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)
        seconds = clock.seconds()
        return {
            **rollout_metrics(scored),
            **_learner_metrics(learned),
            **seconds,
            "tokens_per_s": tokens / seconds["step_s"],
            "generate_tokens_per_s": tokens / seconds["generate_s"],
        }

    def push(self) -> None:
        """Bring every rollout worker to the learner's weights.

        Raises:
            PushFailedError: a worker failed; it refuses to generate.
        """
        _check(self.learner.push_weights(list(self.rollouts.workers.items())))

    def _score(self, groups: list[Group]) -> list[ScoredGroup]:
        workers = self.config.resources.reward_workers
        size = -(-len(groups) // workers)
        batches = [groups[i : i + size] for i in range(0, len(groups), size)]
        return [scored for batch in self.rewards.run("score", batches) for scored in batch]


def _learner_metrics(learned: dict[str, Any]) -> dict[str, float]:
    """The learner's numbers, its seconds by part as ``learn_<part>_s``."""
    numbers = {name: value for name, value in learned.items() if isinstance(value, int | float)}
    return numbers | {f"learn_{part}_s": value for part, value in learned["seconds"].items()}


def rollout_metrics(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """Reward mean and spread, parts by name, lengths and shares of an update's rollouts."""
    rewards = np.concatenate([group.rewards for group in scored])
    rollouts = [rollout for group in scored for rollout in group.group.rollouts]
    metrics = {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "group_std": float(np.mean([group.rewards.std() for group in scored])),
        "flat_groups": float(np.mean([np.ptp(group.rewards) < 1e-6 for group in scored])),
        "response_tokens": float(np.mean([len(rollout.token_ids) for rollout in rollouts])),
        "truncated": float(np.mean([rollout.truncated for rollout in rollouts])),
        "malformed": float(np.concatenate([group.malformed for group in scored]).mean()),
    }
    for name in scored[0].components:
        metrics[name] = float(np.concatenate([group.components[name] for group in scored]).mean())
    if "format" in metrics:
        metrics["well_formed"] = metrics["format"]
    return metrics


def reinforce(
    loop: Reinforcement, prompts: Sequence[Prompt], *, start: int, checkpoints: Path, writer: MetricsWriter
) -> None:
    """Run updates ``start`` … ``svr.steps`` and leave checkpoints.

    Args:
        loop: engines that hold the weights of update ``start`` already.
        prompts: all prompts of the stage; update i takes the i-th slice, so a resume skips and repeats none.
        start: updates done.
        checkpoints: store that they go to.
        writer: of metrics.jsonl.

    Raises:
        KeyboardInterrupt: interrupted; a checkpoint of the last whole update is on disk.
    """
    svr = loop.config.svr
    done = start
    with Progress(STAGE, svr.steps, start=start) as progress:
        try:
            for index in range(start, svr.steps):
                batch = prompts[index * svr.prompts_per_step : (index + 1) * svr.prompts_per_step]
                with finish_first():
                    metrics = loop.step(index, batch)
                    done = index + 1
                    writer.write(STAGE, done, metrics, weight_version=int(metrics["weight_version"]))
                    progress.update(done, metrics)
                if done % svr.checkpoint_every == 0 and done < svr.steps:
                    loop.learner.save_checkpoint(checkpoints, done, {})
        except KeyboardInterrupt:
            loop.learner.save_checkpoint(checkpoints, done, {})
            raise


def run_svr(
    config: RunConfig, backbone: Path, out: Path, prompts: Sequence[Prompt], rollouts: ActorPool, metrics: Path
) -> None:
    """The whole stage: start learner and rewards, go on from the last checkpoint if there is one, write the model.

    Args:
        config: of the run.
        backbone: what MCL left; also the frozen reference.
        out: gets ``checkpoints`` and ``model``.
        prompts: of all updates.
        rollouts: workers that are ready, on ``backbone``.
        metrics: metrics.jsonl of the run.
    """
    learner = LearnerGroup(config, backbone)
    rewards = ActorPool(
        "reward",
        lambda _: _reward_actor(config),
        config.resources.reward_workers,
        timeout_s=config.resources.phase_timeout_s,
    )
    loop = Reinforcement(config, rollouts, rewards, learner)
    try:
        learner.launch()
        rewards.launch()
        learner.wait_ready()
        rewards.wait_ready()
        rollouts.on_join = lambda name, worker: _check(learner.deliver_weights([(name, worker)]))
        found = learner.load_checkpoint(out / "checkpoints")
        start = 0 if found is None else found[0]
        loop.push()
        with MetricsWriter.resume(metrics, STAGE, start) as writer:
            reinforce(loop, prompts, start=start, checkpoints=out / "checkpoints", writer=writer)
        learner.save_model(out / "model")
    finally:
        rollouts.on_join = None
        learner.shutdown()
        rewards.shutdown()


def _reward_actor(config: RunConfig) -> Any:
    actor = ray.remote(RewardWorker).options(num_cpus=0)
    return actor.remote(config.svr.rewards, config.data.coordinates, config.data.image_size)


def _check(report: dict[str, Any]) -> None:
    """Refuse a push that did not reach every worker: one without a whole version must not sample."""
    if report["failures"]:
        raise PushFailedError("; ".join(f"{worker}: {phase}: {why}" for worker, phase, why in report["failures"]))
