"""SVR: the GRPO loop over rollout pool, reward pool and learner.

What lives here: the order of one update (generate, score, learn, push), its timing, its metrics, and
where it stops and goes on. What does not: which groups an update learns (drawing.py), the maths
(grpo/), the engines (actors/).

At staleness 0 every update is learned from rollouts of the weights before it, so the loop is plain
and a run is the same for the same seed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
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
from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.config import RunConfig
from boxmed_ray.interrupt import finish_first
from boxmed_ray.stages.drawing import Drawn, Prompts, draw, with_overlong_penalty, with_variance
from boxmed_ray.stages.evaluation import generate
from boxmed_ray.stages.watch import BadSteps, DivergedError
from boxmed_ray.tracking import MetricsWriter, Progress

log = logging.getLogger(__name__)
STAGE = "svr"
_ROUND_SEED = 1 << 40
"""Between the seeds of one update's rounds of drawing; no number of updates reaches it."""


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


@dataclass(frozen=True)
class Update:
    """What became of one update.

    Attributes:
        metrics: of it, seconds of its phases among them.
        finite: False where loss or gradient was not, and no step was taken for that.
        bad_prompts: whose loss it was.
    """

    metrics: dict[str, float]
    finite: bool = True
    bad_prompts: Sequence[str] = ()


@dataclass
class Reinforcement:
    """The parts of the loop, put together by the pipeline and by benchmarks alike."""

    config: RunConfig
    rollouts: ActorPool
    rewards: ActorPool
    learner: LearnerGroup

    def step(self, index: int, prompts: Prompts) -> Update:
        """One update: generate, score, learn, push.

        Where no group has variance and flat ones are not learned, there is nothing to learn: the weights
        stay as they are.

        Args:
            index: updates done before; seeds the sampling, so that a resumed run samples the same.
            prompts: the update's are taken from it, one group each.
        """
        clock = Clock()

        def sample(asked: Sequence[Prompt], turn: int) -> list[ScoredGroup]:
            with clock.phase("generate"):
                groups = self._generate(asked, self.config.seed * 1_000_003 + index + turn * _ROUND_SEED)
            with clock.phase("score"):
                return self._score(groups)

        drawn = draw(sample, prompts, self.config.svr)
        if not drawn.kept:
            log.warning("update %d skipped: none of %d groups has rewards that differ", index + 1, len(drawn.groups))
            version = drawn.groups[0].group.rollouts[0].weight_version
            return Update(_metrics(drawn, clock, {"updated": 0, "weight_version": version, "seconds": {}}))
        with clock.phase("learn"):
            learned = self.learner.learn(drawn.kept)
        with clock.phase("push"):
            self.push()
        return Update(_metrics(drawn, clock, learned), learned["updated"] == 1, learned["bad_samples"])

    def push(self) -> None:
        """Bring every rollout worker to the learner's weights.

        Raises:
            PushFailedError: a worker failed; it refuses to generate.
        """
        _check(self.learner.push_weights(list(self.rollouts.workers.items())))

    def _generate(self, prompts: Sequence[Prompt], seed: int) -> list[Group]:
        svr = self.config.svr
        return generate(
            self.rollouts,
            prompts,
            self.config,
            n=svr.group_size,
            temperature=svr.temperature,
            max_new_tokens=svr.max_new_tokens,
            seed=seed,
        )

    def _score(self, groups: list[Group]) -> list[ScoredGroup]:
        svr, workers = self.config.svr, self.config.resources.reward_workers
        size = -(-len(groups) // workers)
        batches = [groups[i : i + size] for i in range(0, len(groups), size)]
        scored = [one for batch in self.rewards.run("score", batches) for one in batch]
        if svr.overlong_buffer is None:
            return scored
        return [with_overlong_penalty(one, svr.max_new_tokens, svr.overlong_buffer) for one in scored]


def _metrics(drawn: Drawn, clock: Clock, learned: dict[str, Any]) -> dict[str, float]:
    """All numbers of an update; a phase that it did not have has none."""
    seconds = clock.seconds()
    sampled, taught = _tokens(drawn.groups), _tokens(drawn.kept)
    handled = {"generate": sampled, "score": sampled, "learn": taught, "push": taught}
    return {
        **rollout_metrics(drawn.groups),
        **_learner_metrics(learned),
        **seconds,
        "tokens_per_s": sampled / seconds["step_s"],
        **{f"{phase}_tokens_per_s": handled[phase] / max(took, 1e-9) for phase, took in clock.phases.items()},
    }


def _tokens(groups: Sequence[ScoredGroup]) -> int:
    """Of all responses."""
    return sum(len(rollout.token_ids) for group in groups for rollout in group.group.rollouts)


def _learner_metrics(learned: dict[str, Any]) -> dict[str, float]:
    """The learner's numbers, its seconds by part as ``learn_<part>_s``."""
    numbers = {name: value for name, value in learned.items() if isinstance(value, int | float)}
    return numbers | {f"learn_{part}_s": value for part, value in learned["seconds"].items()}


def rollout_metrics(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """Reward mean and spread, parts by name, lengths and shares of all rollouts that an update drew."""
    rewards = np.concatenate([group.rewards for group in scored])
    rollouts = [rollout for group in scored for rollout in group.group.rollouts]
    metrics = {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "group_std": float(np.mean([group.rewards.std() for group in scored])),
        "drawn_groups": len(scored),
        "flat_groups": 1 - len(with_variance(scored)) / len(scored),
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
    loop: Reinforcement,
    prompts: Sequence[Prompt],
    *,
    start: int,
    checkpoints: Path,
    writer: MetricsWriter,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Run updates ``start`` … ``svr.steps`` and leave checkpoints.

    Args:
        loop: engines that hold the weights of update ``start`` already.
        prompts: all prompts of the stage, ``svr.draws`` for every update; they are taken in order.
        start: updates done.
        checkpoints: store that they go to.
        writer: of metrics.jsonl.
        state: of the checkpoint that ``start`` comes from: how many prompts were drawn, so that a resume skips
            and repeats none, and how many updates in a row were not finite.

    Raises:
        KeyboardInterrupt: interrupted; a checkpoint of the last whole update is on disk.
        DivergedError: ``svr.max_bad_updates`` in a row were not finite.
    """
    svr = loop.config.svr
    # A checkpoint that names no position is of a time when every update drew as many.
    saved = {"prompts_drawn": start * svr.prompts_per_step, "bad_updates": 0} | dict(state or {})
    source = Prompts(prompts, saved["prompts_drawn"])
    bad = BadSteps(svr.max_bad_updates, "svr.max_bad_updates", saved["bad_updates"])
    done = start
    with Progress(STAGE, svr.steps, start=start) as progress:
        try:
            for index in range(start, svr.steps):
                with finish_first():
                    update = loop.step(index, source)
                    done, metrics = index + 1, update.metrics
                    bad.add(taken=update.finite, prompts=update.bad_prompts)
                    saved = {"prompts_drawn": source.position, "bad_updates": bad.count}
                    writer.write(STAGE, done, metrics, weight_version=int(metrics["weight_version"]))
                    progress.update(done, metrics)
                if bad.too_many:
                    raise DivergedError(bad.message(STAGE, CheckpointStore(checkpoints).newest()))
                if done % svr.checkpoint_every == 0 and done < svr.steps:
                    loop.learner.save_checkpoint(checkpoints, done, saved)
        except KeyboardInterrupt:
            loop.learner.save_checkpoint(checkpoints, done, saved)
            raise


def run_svr(
    config: RunConfig, backbone: Path, out: Path, prompts: Sequence[Prompt], rollouts: ActorPool, metrics: Path
) -> None:
    """The whole stage: start learner and rewards, go on from the last checkpoint if there is one, write the model.

    Args:
        config: of the run.
        backbone: what MCL left; also the frozen reference.
        out: gets ``checkpoints`` and ``model``.
        prompts: of all updates, ``svr.draws`` for each.
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
        start, state = (0, None) if found is None else found
        loop.push()
        with MetricsWriter.resume(metrics, STAGE, start) as writer:
            reinforce(loop, prompts, start=start, checkpoints=out / "checkpoints", writer=writer, state=state)
        learner.save_model(out / "model")
    finally:
        rollouts.on_join = None
        learner.shutdown()
        rewards.shutdown()


def _reward_actor(config: RunConfig) -> Any:
    actor = ray.remote(RewardWorker).options(num_cpus=0)
    return actor.remote(config.svr.rewards, config.data.coordinates, config.data.image_size, config.scorers.paths)


def _check(report: dict[str, Any]) -> None:
    """Refuse a push that did not reach every worker: one without a whole version must not sample."""
    if report["failures"]:
        raise PushFailedError("; ".join(f"{worker}: {phase}: {why}" for worker, phase, why in report["failures"]))
