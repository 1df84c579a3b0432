"""The driver's handle on all learner ranks: start, learn, checkpoint, push, end.

What lives here: the placement group, calls to every rank with a timeout, one error that says which
rank failed and how. What does not: what a rank does (learner.py).

The ranks are one unit: when one is lost or late, the others wait in a collective that never ends. So
any failure ends them all, and ``start`` followed by ``load_checkpoint`` makes a new group.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from boxmed_ray.actors.learn_batch import LearnBatch, kl_penalties, learn_groups, split
from boxmed_ray.actors.shared_gpus import learner_place
from boxmed_ray.actors.types import ScoredGroup
from boxmed_ray.actors.weight_backend import Backend
from boxmed_ray.actors.weight_fleet import PushReport
from boxmed_ray.actors.weight_push import Publication
from boxmed_ray.checkpoint import CheckpointError, CheckpointStore
from boxmed_ray.config import RunConfig

log = logging.getLogger(__name__)

_CPUS_PER_THREAD = 0.5
"""Ray's books only, so that learners, rollout workers and rewards fit beside each other on two cores."""
_START_TIMEOUT_S = 600.0
_END_S = 5.0
_PUSH_PHASES = 6


class LearnerError(RuntimeError):
    """A learner rank failed, died or did not answer; the whole group has been ended."""


class LearnerGroup:
    """All learner ranks.

    Args:
        config: of the run; ``resources`` says how many ranks and what each has.
        model_folder: the policy to start from, and the frozen reference; readable by every rank.
        image_cache: folder of resized images (data/images.py), or None.
    """

    def __init__(self, config: RunConfig, model_folder: Path, image_cache: Path | None = None) -> None:
        self._config, self._folder, self._image_cache = config, model_folder.resolve(), image_cache
        self._ranks: list[Any] = []
        self._connecting: list[Any] = []
        self._placement: Any = None

    def launch(self) -> None:
        """Create the ranks without waiting: they load their models side by side."""
        from boxmed_ray.actors.learner import LearnerRank

        resources = self._config.resources
        bundle = {"CPU": _CPUS_PER_THREAD * resources.threads}
        if resources.gpus_per_learner:
            bundle["GPU"] = resources.gpus_per_learner
        if not resources.colocated:
            self._placement = placement_group([bundle] * resources.learner_ranks, strategy="PACK")

        def place(rank: int) -> dict[str, Any]:
            if resources.colocated:
                return learner_place(rank)
            strategy = PlacementGroupSchedulingStrategy(self._placement, rank)
            return {
                "num_cpus": bundle["CPU"],
                "num_gpus": resources.gpus_per_learner,
                "scheduling_strategy": strategy,
            }

        actor = ray.remote(LearnerRank)
        self._ranks = [
            actor.options(max_restarts=0, **place(rank)).remote(
                self._config, self._folder, rank, resources.learner_ranks, self._image_cache
            )
            for rank in range(resources.learner_ranks)
        ]
        address = self._ranks[0].address.remote()
        self._connecting = [rank.connect.remote(address) for rank in self._ranks]
        self._ranks[0].preload.remote()

    def wait_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until every rank has its model and its engine.

        Raises:
            LearnerError: one did not start, with its own traceback, or not in time.
        """
        self._collect("connect", self._connecting, timeout_s)

    def start(self) -> None:
        """``launch`` and ``wait_ready``."""
        self.launch()
        self.wait_ready()

    @property
    def config(self) -> RunConfig:
        """Of the run."""
        return self._config

    @property
    def ranks(self) -> list[Any]:
        """Actor handles, rank 0 first."""
        return self._ranks

    def learn(self, scored: Sequence[ScoredGroup], timeout_s: float | None = None) -> dict[str, Any]:
        """One update on scored groups.

        Returns:
            Metrics of the whole update: those of ``LearnerRank.learn``, where ``seconds`` are the
            slowest rank's by part, ``bad_samples`` all ranks' (a non-finite loss: the step was
            skipped, see ``updated``), and ``split_s`` is the driver's own time. With the KL in the
            reward ``kl_penalty`` is what it took from a response on average.

        Raises:
            LearnerError: a rank failed.
        """
        begin = time.perf_counter()
        settings, extra = self._config.svr, dict[str, float]()
        batches = split(learn_groups(scored, settings.scale), len(self._ranks), settings.micro_tokens)
        split_s = time.perf_counter() - begin
        if settings.kl_in == "reward":
            # Advantages compare penalised rewards, over all ranks where they are scaled by the batch: they are taken
            # here. The split looks at lengths alone, so every rank gets the groups again that it has prepared.
            measured = self._on_shares("measure_kl", batches, timeout_s)
            divergences = {number: kl for part in measured for number, kl in part.items()}
            penalties = kl_penalties(scored, divergences, settings.kl_beta)
            weighed = learn_groups(scored, settings.scale, penalties)
            batches = split(weighed, len(self._ranks), settings.micro_tokens)
            extra = {"kl_penalty": float(np.concatenate(penalties).mean())}
        results = self._on_shares("learn", batches, timeout_s)
        seconds: dict[str, float] = {}
        for result in results:
            for part, value in result["seconds"].items():
                seconds[part] = max(seconds.get(part, 0.0), value)
        bad = [identity for result in results for identity in result["bad_samples"]]
        merged = {**results[0], **extra, "seconds": seconds, "bad_samples": bad, "split_s": split_s}
        if merged["updated"] < 1:
            log.error(
                "update skipped, loss or gradient not finite; prompts: %s", ", ".join(bad) or "none by their loss"
            )
        return merged

    def save_checkpoint(self, folder: Path, step: int, state: dict[str, Any], score: float | None = None) -> None:
        """Write a checkpoint of the ranks and of the driver's ``state`` (JSON) into the store at ``folder``.

        Args:
            folder: of the store.
            step: updates done.
            state: data position and the like.
            score: the higher, the better; the best checkpoint is kept (checkpoint.py).

        Raises:
            CheckpointError: it cannot be written; the group has been ended.
            LearnerError: a rank failed.
        """
        self.call("save_checkpoint", folder.resolve(), step, state, score)

    def load_checkpoint(self, folder: Path) -> tuple[int, dict[str, Any]] | None:
        """Bring the ranks to the newest whole checkpoint of a store; its step and the driver's state, or None.

        It is chosen and checked here, once: what the driver logs, the user sees.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
            LearnerError: a rank failed.
        """
        found = CheckpointStore(folder.resolve()).latest()
        if found is None:
            return None
        self.call("load_checkpoint", found.folder)
        return found.step, found.state

    def save_model(self, folder: Path) -> None:
        """Write the policy as a model folder."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.call("save_model", folder.resolve())

    def publish_weights(self, backend: Backend, keep: Sequence[str]) -> Publication:
        """Publish the present weights; the driver delivers them (weight_push.py).

        Args:
            backend: the way (weight_backend.py).
            keep: paths of publications that somebody may still read; all others are dropped or written over.

        Raises:
            LearnerError: a rank failed.
        """
        publication: Publication = self.call("publish_weights", backend, list(keep))[0]
        return publication

    def transfer_weights(self, backend: Backend, workers: Sequence[tuple[str, Any]]) -> PushReport:
        """Send the present weights to ``workers`` by a collective of learner and workers; failures are in the report.

        Raises:
            LearnerError: a rank failed, or waits for a worker that did.
        """
        limit = _PUSH_PHASES * self._config.resources.phase_timeout_s  # each phase has a timeout of its own inside
        report: PushReport = self.call("transfer_weights", backend, list(workers), timeout_s=limit)[0]
        return report

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> list[Any]:
        """Call ``method`` on every rank at once; results by rank.

        Raises:
            LearnerError: a rank raised (with its traceback), died, or did not answer in time.
        """
        return self._collect(method, [getattr(rank, method).remote(*args) for rank in self._ranks], timeout_s)

    def _on_shares(self, method: str, batches: Sequence[LearnBatch], timeout_s: float | None) -> list[Any]:
        """Call ``method`` on every rank with its share; results by rank."""
        calls = [getattr(rank, method).remote(batch) for rank, batch in zip(self._ranks, batches, strict=True)]
        return self._collect(method, calls, timeout_s)

    def shutdown(self) -> None:
        """End all ranks and free what they occupy, shared memory too; safe to call twice."""
        if self._ranks:
            # A rank that hangs cannot answer; what it leaves, the next push on this host removes.
            ray.wait([rank.shutdown.remote() for rank in self._ranks], num_returns=len(self._ranks), timeout=_END_S)
        self._kill()

    def _kill(self) -> None:
        for rank in self._ranks:
            ray.kill(rank)
        if self._placement is not None:
            remove_placement_group(self._placement)
        self._ranks, self._connecting, self._placement = [], [], None

    def _collect(self, method: str, references: Sequence[Any], timeout_s: float | None) -> list[Any]:
        limit = self._config.resources.phase_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit
        waiting = list(references)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                late = [rank for rank, reference in enumerate(references) if reference in waiting]
                self._kill()
                raise LearnerError(f"learner {method}: no answer from rank {late} within {limit:g} s")
            try:
                ray.get(done[0])
            except ray.exceptions.RayError as error:
                rank = list(references).index(done[0])
                self._kill()
                if isinstance(cause := getattr(error, "cause", None), CheckpointError):
                    raise CheckpointError(f"stage svr: {cause}") from error
                raise LearnerError(f"learner rank {rank} failed in {method}:\n{error}") from error
        return list(ray.get(list(references)))
