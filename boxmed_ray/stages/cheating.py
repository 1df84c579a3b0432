"""The watch of a training: now and then some responses are measured by what is not rewarded.

What lives here: which responses, when, and what becomes of an alarm. What does not: the rules (drift.py), the
measuring (actors/reward.py).

Measuring goes through the reward pool while the loop goes on, and is taken in when it is there: the learner never
waits for it. Only a checkpoint waits for the first one, which is of the starting model and cannot be had later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_items import LostError
from boxmed_ray.actors.types import Group, Measured, ScoredGroup
from boxmed_ray.config import RunConfig, TaskName
from boxmed_ray.data.mixture import ASKED, TASKS
from boxmed_ray.events import EventWriter
from boxmed_ray.stages.drift import REWARD, Alarm, Drift
from boxmed_ray.tracking import MetricsWriter
from rewards.habits import mean_and_spread
from rewards.registry import check, held_out, known, reads

log = logging.getLogger(__name__)
FILE, STAGE, EVENT = "watch.jsonl", "watch_", "alarm"


def watched(config: RunConfig) -> dict[TaskName, list[str]]:
    """Task → what measures its responses and does not reward them.

    Raises:
        ValueError: ``svr.watch.scorers`` names what cannot be built.
    """
    names, paths = config.svr.watch.scorers, config.scorers.paths
    if not config.svr.watch.every or names == ():
        return {}
    if names is None:
        return {task: held_out(weights, ASKED[task], paths) for task, weights in config.svr.routes.items()}
    check(dict.fromkeys(names, 1.0), paths)
    return {
        task: [name for name in names if known(name) not in map(known, weights) and reads(name) <= ASKED[task]]
        for task, weights in config.svr.routes.items()
    }


class Watch:
    """Measures every ``svr.watch.every`` updates and rings.

    Args:
        config: of the run.
        rewards: workers that measure.
        events: told of alarms.
        path: of watch.jsonl, which is cut back to ``start``; None keeps no record.
        start: updates done.
        state: of the checkpoint that ``start`` comes from.
    """

    def __init__(
        self,
        config: RunConfig,
        rewards: Pool,
        events: EventWriter,
        path: Path | None,
        start: int = 0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._settings, self._rewards, self._events = config.svr.watch, rewards, events
        self._drifts = {task: Drift(self._settings, **(state or {}).get(task, {})) for task in config.svr.routes}
        self._begun = {task for task, drift in self._drifts.items() if drift.start is not None}
        self._asked: list[tuple[int, TaskName, float, float, Future[Measured]]] = []
        self._writer: MetricsWriter | None = None
        if path is not None and self._settings.every:
            self._writer = MetricsWriter(path)
            for task in self._drifts:
                self._writer.close()
                self._writer = MetricsWriter.resume(path, f"{STAGE}{task}", start)

    def look(self, step: int, groups: Sequence[ScoredGroup]) -> None:
        """Have responses of update ``step`` (from 1) measured, if it is one that is measured or asks a task first."""
        if not self._settings.every:
            return
        due = (step - 1) % self._settings.every == 0
        for name in self._drifts:
            if not due and name in self._begun:
                continue
            chosen = choose([g for g in groups if g.group.prompt.task is TASKS[name]], self._settings.responses)
            if chosen:
                self._begun.add(name)
                reward = mean_and_spread([float(value) for one in chosen for value in one.rewards])
                asked = self._rewards.submit("measure", [one.group for one in chosen])
                self._asked.append((step, name, *reward, asked))

    def collect(self, *, wait: bool = False) -> list[str]:
        """Take in what has been measured, write it down and tell what rings; the alarms in words.

        Args:
            wait: for what has been asked.
        """
        found = []
        while self._asked and (wait or self._asked[0][-1].done()):
            step, task, mean, spread, future = self._asked.pop(0)
            try:
                measured = {REWARD: (mean, spread), **future.result()}
            except LostError as error:
                log.warning("update %d is not measured: %s", step, error)
                continue
            if self._writer is not None:
                self._writer.write(f"{STAGE}{task}", step, {name: value for name, (value, _) in measured.items()})
            found += [self._ring(step, task, alarm) for alarm in self._drifts[task].add(measured)]
        return found

    def _ring(self, step: int, task: TaskName, alarm: Alarm) -> str:
        message = f"{task} prompts, {alarm.rule} rule, update {step}: {alarm.message}"
        log.warning("ALARM, the reward may be cheated: %s", message)
        self._events.write(EVENT, step=step, task=task, rule=alarm.rule, message=alarm.message)
        return message

    @property
    def state(self) -> dict[str, Any]:
        """For a checkpoint. Waits for what was measured of the starting model."""
        if any(drift.start is None for drift in self._drifts.values()):
            self.collect(wait=True)
        return {task: drift.state for task, drift in self._drifts.items()}

    def close(self) -> None:
        """Take in what is there, and close the record."""
        self.collect()
        if self._writer is not None:
            self._writer.close()


def choose(groups: Sequence[ScoredGroup], count: int) -> list[ScoredGroup]:
    """The groups cut down to ``count`` responses in all, of as many prompts as there are: the first ones of each."""
    each = np.array([len(one.rewards) for one in groups], dtype=int)
    kept = np.zeros_like(each)
    for _ in range(int(each.max(initial=0))):
        for i in range(len(groups)):
            if kept.sum() < count and kept[i] < each[i]:
                kept[i] += 1
    return [_first(one, int(number)) for one, number in zip(groups, kept, strict=True) if number]


def _first(one: ScoredGroup, number: int) -> ScoredGroup:
    group: Group = replace(one.group, rollouts=one.group.rollouts[:number])
    return replace(one, group=group, rewards=one.rewards[:number])
