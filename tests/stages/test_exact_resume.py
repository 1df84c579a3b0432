"""SVR stopped after update 7 and gone on with: updates 8 to 12 are those of a run that was not stopped, bit for bit.

The learner is real, on one rank. Responses come from a generator seeded by the update, the prompt and the policy's
weights, so that any difference in the weights changes everything behind it. With vLLM on Ray the same is tested in
integration/test_exact_resume.py.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxmed_ray.actors.learn_batch import learn_groups, split
from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.actors.types import Group, Prompt, Rollout, ScoredGroup
from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.config import RunConfig
from boxmed_ray.data.prompts import Task
from boxmed_ray.model.policy import digest
from boxmed_ray.stages.reinforce import Reinforcement, reinforce
from boxmed_ray.tracking import MetricsWriter, read_metrics
from tests import one_rank
from tests.actors.learner_cases import PHRASES, config, model_folder
from tests.stages.reinforce_cases import Pool, without_times

STEPS, STOP = 12, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one_rank.join()
    folder = tmp_path_factory.mktemp("exact")
    model_folder(config(folder), folder)
    for number in range(STEPS * 6):
        pixels = np.random.default_rng(number).integers(0, 256, (56, 56), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


class Run:
    """The loop on one learner rank; ``fail`` raises before the update of that number is learned."""

    def __init__(self, folder: Path, settings: RunConfig, out: Path, fail: int = 0) -> None:
        self.folder, self.settings, self.out, self.fail = folder, settings, out, fail
        self.rank = LearnerRank(settings, folder / "init", 0, 1)
        self.rank.connect(("127.0.0.1", 1))
        self.learned = 0

    @property
    def weights(self) -> str:
        return digest(self.rank._engine.module.named_parameters())

    def go(self) -> None:
        """Run or resume as the stage does."""
        found = CheckpointStore(self.out / "checkpoints").latest()
        start, state = (0, None) if found is None else (found.step, found.state)
        if found is not None:
            self.rank.load_checkpoint(found.folder)
        self.learned = start
        ours: Any = self
        pools: list[Any] = [Pool(self._sample), Pool(self._score)]
        loop = Reinforcement(self.settings, *pools, ours, ours)
        loop.start()
        prompts = [
            Prompt(f"p{i}", Task.GROUND, PHRASES[i % 3], str(i), str(self.folder / f"{i}.png"), 56, 56)
            for i in range(STEPS * self.settings.svr.draws)
        ]
        with MetricsWriter.resume(self.out / "metrics.jsonl", "svr", start) as writer:
            reinforce(loop, prompts, start=start, checkpoints=self.out / "checkpoints", writer=writer, state=state)

    def learn(self, scored: Sequence[ScoredGroup]) -> dict[str, Any]:
        self.learned += 1
        if self.learned == self.fail:
            raise RuntimeError("killed")
        settings = self.settings.svr
        [batch] = split(learn_groups(scored, settings.scale), 1, settings.micro_tokens)
        return self.rank.learn(batch)

    collective = False

    def publish(self) -> Run:
        return self

    @property
    def version(self) -> int:
        return self.rank.weight_version

    def save_checkpoint(self, *args: Any) -> None:
        self.rank.save_checkpoint(*args)

    def _sample(self, batch: Sequence[Prompt], *, n: int, seed: int, **_: Any) -> list[Group]:
        return [self._group(prompt, n, f"{seed} {prompt.id} {self.weights}") for prompt in batch]

    def _group(self, prompt: Prompt, n: int, words: str) -> Group:
        rng = np.random.default_rng(list(hashlib.sha256(words.encode()).digest()))
        lengths = rng.integers(1, 8, n)
        rollouts = tuple(
            Rollout(rng.integers(20, 250, k), rng.uniform(-6, -5, k).astype(np.float32), "stop", self.version, "")
            for k in lengths
        )
        return Group(prompt, rollouts, 20)

    def _score(self, batch: Sequence[Group]) -> list[ScoredGroup]:
        return [self._scored(group) for group in batch]

    def _scored(self, group: Group) -> ScoredGroup:
        rewards = np.array([rollout.token_ids[0] % 2 for rollout in group.rollouts], np.float32)
        return ScoredGroup(group, rewards, {}, rewards < 0)


def settings(folder: Path, **svr: Any) -> RunConfig:
    """Two prompts of four responses; more where rewards do not differ, so that no update draws as many as the last."""
    chosen = {
        "steps": STEPS, "prompts_per_step": 2, "dynamic_sampling": True, "warmup_steps": 3, "kl_beta": 0.05,
        "zero_stage": 2, "checkpoint_every": STOP, "reward_window": 4,
    }  # fmt: skip
    return config(folder, **chosen | svr)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    """Metrics and weights of the run that was not stopped."""
    run = Run(folder, settings(folder), tmp_path_factory.mktemp("whole"))
    run.go()
    return without_times(read_metrics(run.out / "metrics.jsonl")), run.weights


def test_two_runs_with_one_seed_are_the_same_and_with_another_are_not(
    folder: Path, tmp_path: Path, whole: tuple[list[dict[str, Any]], str]
) -> None:
    again = Run(folder, settings(folder), tmp_path / "again")
    again.go()
    assert (without_times(read_metrics(again.out / "metrics.jsonl")), again.weights) == whole
    other = Run(folder, settings(folder).model_copy(update={"seed": 1}), tmp_path / "other", fail=2)
    with pytest.raises(RuntimeError):
        other.go()
    assert without_times(read_metrics(other.out / "metrics.jsonl")) != whole[0][:1]


def interrupted(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while update 7 is learned."""
    write = MetricsWriter.write

    def signal_at_seven(self: MetricsWriter, stage: str, step: int, *args: Any, **kwargs: Any) -> None:
        write(self, stage, step, *args, **kwargs)
        if step == STOP:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsWriter, "write", signal_at_seven)
        with pytest.raises(KeyboardInterrupt):
            Run(folder, settings(folder, checkpoint_every=100), out).go()


def killed_and_damaged(folder: Path, out: Path, _: pytest.MonkeyPatch) -> None:
    """Killed in update 8, then in update 11 behind a checkpoint of update 9, in which a bit flips afterwards."""
    for every, fail in ((STOP, STOP + 1), (3, 11)):
        with pytest.raises(RuntimeError):
            Run(folder, settings(folder, checkpoint_every=every), out, fail=fail).go()
    assert len(read_metrics(out / "metrics.jsonl")) == 10
    file = out / "checkpoints" / "step-00000009" / "engine.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("stop", [interrupted, killed_and_damaged])
def test_a_run_stopped_after_update_7_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, whole: tuple[list[dict[str, Any]], str], monkeypatch: pytest.MonkeyPatch,
    stop: Callable[[Path, Path, pytest.MonkeyPatch], None],
) -> None:  # fmt: skip
    stop(folder, tmp_path, monkeypatch)
    resumed = Run(folder, settings(folder), tmp_path)
    resumed.go()
    lines, weights = whole
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert len({line["drawn_groups"] for line in lines}) > 1  # the position in the data is not a function of the step
    assert without_times(read_metrics(tmp_path / "metrics.jsonl")) == lines
    assert resumed.weights == weights
