"""The GRPO loop over rollout pool, reward pool and learner.

What lives here: the order of one update (wait for groups, learn, push), and where the loop stops and goes
on. What does not: drawing groups (sampler.py, ahead.py), the maths (grpo/), the engines (actors/), the stage
around it (svr.py).

At staleness 0 every update is learned from rollouts of the weights before it, so the loop is plain
and a run is the same for the same seed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boxmed_ray.actors.learner_group import LearnerGroup
from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_worker import RayWorker, Worker
from boxmed_ray.actors.types import Prompt, ScoredGroup
from boxmed_ray.actors.weight_push import PushError, WeightPush
from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.config import RunConfig
from boxmed_ray.events import EventWriter
from boxmed_ray.interrupt import finish_first
from boxmed_ray.stages.ahead import Ahead
from boxmed_ray.stages.cheating import Watch
from boxmed_ray.stages.clock import Clock
from boxmed_ray.stages.drawing import Drawn, Prompts
from boxmed_ray.stages.reward_trend import RewardTrend
from boxmed_ray.stages.rollouts import handles
from boxmed_ray.stages.sampler import Sampler
from boxmed_ray.stages.update_metrics import staleness, update_metrics
from boxmed_ray.stages.watch import BadSteps, DivergedError, DriftError, drift_message
from boxmed_ray.tracking import MetricsWriter, Progress

log = logging.getLogger(__name__)
STAGE = "svr"


@dataclass(frozen=True)
class Update:
    """What became of one update.

    Attributes:
        metrics: of it, seconds of its phases among them.
        finite: False where loss or gradient was not, and no step was taken for that.
        bad_prompts: whose loss it was.
        groups: that were drawn for it.
    """

    metrics: dict[str, float]
    finite: bool = True
    bad_prompts: Sequence[str] = ()
    groups: Sequence[ScoredGroup] = ()


@dataclass
class Reinforcement:
    """The parts of the loop, put together by the stage and by benchmarks alike."""

    config: RunConfig
    rollouts: Pool
    rewards: Pool
    learner: LearnerGroup
    weights: WeightPush
    events: EventWriter = field(default_factory=lambda: EventWriter(None))
    _versions: deque[int] = field(default_factory=deque)

    def start(self) -> None:
        """Bring all rollout workers, and those that will join, to the learner's weights."""
        self._versions = deque(maxlen=self.config.svr.max_staleness + 1)
        self._publish()
        self.rollouts.refresh(self._prepare).result()

    def step(self, index: int, ahead: Ahead) -> Update:
        """One update: wait for its groups, learn, push.

        Where no group has variance and flat ones are not learned, there is nothing to learn: the weights
        stay as they are.

        Args:
            index: updates done before.
            ahead: draws it, and those after it.
        """
        clock, on_policy = Clock(), self.config.svr.max_staleness == 0
        ahead.begin(index)
        with clock.phase("wait"):
            drawn = ahead.take(index)
        if on_policy:  # nothing else is done meanwhile: the wait is the drawing
            clock.phases = drawn.seconds
        if not drawn.kept:
            log.warning("update %d skipped: none of %d groups has rewards that differ", index + 1, len(drawn.groups))
            learned: dict[str, Any] = {"updated": 0, "weight_version": self._versions[-1], "seconds": {}}
        else:
            with clock.phase("learn"):
                learned = self.learner.learn(drawn.kept) | self._staleness(drawn)
            with clock.phase("push"):
                self._push(wait=on_policy)
        metrics = update_metrics(drawn, clock, learned) | {"rollout_workers": len(self.rollouts.workers)}
        skipped = bool(drawn.kept) and learned["updated"] < 1
        return Update(metrics, not skipped, learned.get("bad_samples", ()), drawn.groups)

    def _push(self, *, wait: bool) -> None:
        self._publish()
        refreshed = self.rollouts.refresh()
        if wait:
            refreshed.result()

    def _publish(self) -> None:
        publication = self.weights.publish()
        self._versions.append(publication.version)
        if publication.collective:
            # The learner sends by itself, and learns next: all workers at once, now. One that fails is prepared, and
            # if it fails again replaced, by the pool.
            with suppress(PushError):
                self.weights.deliver(list(handles(self.rollouts).items()))

    def _staleness(self, drawn: Drawn) -> dict[str, float]:
        measured = staleness(drawn.kept, self._versions[-1])
        if measured["staleness_max"] > self._versions[-1] - self._versions[0]:
            raise RuntimeError(
                f"a response is {measured['staleness_max']:g} weight versions old, and svr.max_staleness allows "
                f"{self._versions[-1] - self._versions[0]}: this is a defect of the pool, please report it"
            )
        return measured

    def _prepare(self, name: str, worker: Worker) -> None:
        assert isinstance(worker, RayWorker)
        self.weights.deliver([(name, worker.handle)])


def reinforce(
    loop: Reinforcement,
    prompts: Sequence[Prompt],
    *,
    start: int,
    checkpoints: Path,
    writer: MetricsWriter,
    watch: Watch | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Run updates ``start`` … ``svr.steps`` and leave checkpoints.

    Args:
        loop: engines that hold the weights of update ``start`` already.
        prompts: all prompts of the stage, ``svr.draws`` for every update; they are taken in order.
        start: updates done.
        checkpoints: store that they go to.
        writer: of metrics.jsonl.
        watch: measures responses beside the reward; by default one that keeps no record.
        state: of the checkpoint that ``start`` comes from: how many prompts were drawn, so that a resume skips
            and repeats none, how many updates in a row were not finite, and the last rewards.

    Raises:
        KeyboardInterrupt: interrupted; a checkpoint of the last whole update is on disk.
        DivergedError: ``svr.max_bad_updates`` in a row were not finite.
        DriftError: an alarm, where ``svr.watch.on_alarm`` says stop.
    """
    svr = loop.config.svr
    # A checkpoint that names no position is of a time when every update drew as many.
    saved: dict[str, Any] = {"prompts_drawn": start * svr.prompts_per_step, "bad_updates": 0, "rewards": []}
    saved |= state or {}
    source = Prompts(prompts, saved)
    bad = BadSteps(svr.max_bad_updates, "svr.max_bad_updates", saved["bad_updates"])
    trend = RewardTrend(svr.reward_window, saved["rewards"])
    sampler = Sampler(loop.config, loop.rollouts, loop.rewards, loop.events)
    watch = watch or Watch(loop.config, loop.rewards, loop.events, None, start, saved.get("watch"))
    done = start

    def save() -> None:
        driver = source.state | {"bad_updates": bad.count, "rewards": trend.rewards, "watch": watch.state}
        loop.learner.save_checkpoint(checkpoints, done, driver, trend.mean)

    with (
        Progress(STAGE, svr.steps, start=start) as progress,
        Ahead(lambda index: sampler.draw(index, source), svr.max_staleness, start, svr.steps) as ahead,
    ):
        try:
            for index in range(start, svr.steps):
                with finish_first():
                    update = loop.step(index, ahead)
                    source.learned(index)
                    done, metrics = index + 1, update.metrics
                    bad.add(taken=update.finite, prompts=update.bad_prompts)
                    if "reward" in metrics:  # not where every prompt of the update was given up
                        metrics["reward_smoothed"] = trend.add(metrics["reward"])
                    writer.write(STAGE, done, metrics, weight_version=int(metrics["weight_version"]))
                    progress.update(done, metrics)
                    watch.look(done, update.groups)
                    alarms = watch.collect(wait=done == svr.steps)
                if bad.too_many:
                    raise DivergedError(bad.message(STAGE, CheckpointStore(checkpoints).newest()))
                stop = alarms and svr.watch.on_alarm == "stop"
                if done % svr.checkpoint_every == 0 or done == svr.steps or stop:
                    save()
                if stop:
                    raise DriftError(drift_message(alarms, CheckpointStore(checkpoints).newest()))
        except KeyboardInterrupt:
            save()
            raise
