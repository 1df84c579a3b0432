"""The loop of SVR without engines: plain functions where pools and learner are, so that every number is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from boxmed_ray.actors.pool_items import LostError
from boxmed_ray.actors.types import Group, Prompt, Rollout, ScoredGroup
from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.config import PoolConfig, ResourcesConfig, RunConfig, SVRConfig
from boxmed_ray.data.prompts import Task
from boxmed_ray.stages.reinforce import Reinforcement

TOKENS = 5
"""Of every response."""


def prompts(count: int) -> list[Prompt]:
    """Prompts p0, p1, …"""
    return [Prompt(f"p{i}", Task.GROUND, "There is a nodule.", "s", "s.png", 10, 10) for i in range(count)]


def config(**svr: Any) -> RunConfig:
    """A run of six updates of four prompts."""
    settings = {"steps": 6, "prompts_per_step": 4, "group_size": 2, "checkpoint_every": 1} | svr
    two = PoolConfig(min=2, max=2)
    return RunConfig(svr=SVRConfig(**settings), resources=ResourcesConfig(rollout_workers=two, reward_workers=two))


class Pool:
    """Calls a function for every batch, in this process and at once; a prompt by itself is a batch of one."""

    def __init__(self, work: Callable[..., list[Any]]) -> None:
        self._work = work
        self.workers: dict[str, Any] = {"one": None}

    def submit(self, method: str, payload: Any, *, cost: int = 1, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if method == "measure":
            future.set_result({"characters": (0.0, 0.0)})
            return future
        try:
            single = method == "generate_group"
            result = self._work([payload] if single else payload, **options)
            future.set_result(result[0] if single else result)
        except LostError as error:
            future.set_exception(error)
        return future

    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def refresh(self, _: Any = None) -> Future[None]:
        future: Future[None] = Future()
        future.set_result(None)
        return future


@dataclass
class Learner:
    """Notes what it is given; ``bad`` names the prompts whose loss is not finite."""

    bad: Callable[[str], bool] = lambda _: False
    learned: list[list[str]] = field(default_factory=list)
    version: int = 0

    def learn(self, scored: Sequence[ScoredGroup]) -> dict[str, Any]:
        ids = [group.group.prompt.id for group in scored]
        self.learned.append(ids)
        bad = [identity for identity in ids if self.bad(identity)]
        self.version += not bad
        return {
            "updated": float(not bad), "bad_samples": bad, "weight_version": self.version, "seconds": {"forward": 0.5},
        }  # fmt: skip

    collective = False

    def publish(self) -> Learner:
        """What it publishes has its version."""
        return self

    def save_checkpoint(self, folder: Path, step: int, state: dict[str, Any], score: float | None = None) -> None:
        CheckpointStore(folder).save(
            step, state, lambda part: (part / "x").write_text(json.dumps(step)) and None, score
        )


@dataclass
class Run:
    """A loop whose groups are flat where ``flat`` says so of the prompt's number; ``asked`` notes seeds and prompts.

    Prompts in ``poison`` are given up.
    """

    config: RunConfig
    flat: Callable[[int], bool] = lambda _: False
    poison: frozenset[str] = frozenset()
    learner: Learner = field(default_factory=Learner)
    asked: list[tuple[int, str]] = field(default_factory=list)

    @property
    def pools(self) -> tuple[Any, Any]:
        """For rollouts and rewards."""
        return Pool(self._sample), Pool(self._score)

    @property
    def loop(self) -> Reinforcement:
        learner: Any = self.learner
        loop = Reinforcement(self.config, *self.pools, learner, learner)
        loop.start()
        return loop

    def _sample(self, batch: Sequence[Prompt], *, n: int, seed: int = -1, **_: Any) -> list[Group]:
        if any(prompt.id in self.poison for prompt in batch):
            raise LostError("rollout", 3, "it died")
        self.asked += [(seed, prompt.id) for prompt in batch]
        zeros = np.zeros(TOKENS, dtype=np.int64)
        rollouts = tuple(Rollout(zeros, zeros.astype(np.float32), "stop", self.learner.version, "") for _ in range(n))
        return [Group(prompt, rollouts) for prompt in batch]

    def _score(self, batch: Sequence[Group]) -> list[ScoredGroup]:
        return [self._scored(group) for group in batch]

    def _scored(self, group: Group) -> ScoredGroup:
        rewards = np.array([0, 0 if self.flat(int(group.prompt.id[1:])) else 1], dtype=np.float32)
        return ScoredGroup(group, rewards, {"iou": rewards}, rewards < 0)


def without_times(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without what differs from run to run on the same numbers."""
    return [
        {name: value for name, value in line.items() if name not in ("time", "seconds") and not name.endswith("_s")}
        for line in lines
    ]
