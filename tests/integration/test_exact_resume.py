"""SVR on real Ray, vLLM and two learner ranks, stopped after update 7 and gone on with by new processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from boxmed_ray.actors.pool import Pool
from boxmed_ray.config import DataConfig, ModelConfig, PoolConfig, ResourcesConfig, RunConfig, SVRConfig
from boxmed_ray.data.examples import corpus, ground_prompts
from boxmed_ray.data.load import Dataset, load_studies
from boxmed_ray.events import EventWriter
from boxmed_ray.model.policy import digest, load_policy
from boxmed_ray.model.tiny import build_tiny
from boxmed_ray.stages.evaluation import prompt_of
from boxmed_ray.stages.rollouts import rollout_pool
from boxmed_ray.stages.svr import run_svr
from boxmed_ray.tracking import MetricsWriter, read_metrics
from tests.stages.reinforce_cases import without_times

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS, STOP = 12, 7


def config(folder: Path, seed: int = 0) -> RunConfig:
    """Two prompts of four responses of a few tokens, on the smallest model."""
    return RunConfig(
        name="exact",
        runs_dir=folder,
        seed=seed,
        data=DataConfig(train_studies=16, test_studies=4, image_size=56),
        model=ModelConfig(hidden_size=64, layers=2, vision_hidden_size=64, vision_layers=1, vocabulary=320),
        svr=SVRConfig(
            steps=STEPS, prompts_per_step=2, group_size=4, max_new_tokens=8, lr=3e-3, warmup_steps=2,
            checkpoint_every=5, rewards={"length": 1.0, "format": 1.0}, scale="batch",
        ),
        resources=ResourcesConfig(
                learner_ranks=2, rollout_workers=PoolConfig(), max_sequences=16, kv_cache_gb=0.1
            ),
    )  # fmt: skip


@dataclass
class Stage:
    """The SVR stage with its data and the model it starts from."""

    config: RunConfig
    folder: Path
    dataset: Dataset

    @contextmanager
    def pool(self) -> Iterator[Pool]:
        """Rollout workers of a process of their own."""
        pool = rollout_pool(self.config, lambda: self.folder / "init", self.dataset.images, EventWriter(None))
        pool.launch()
        try:
            pool.wait_ready()
            yield pool
        finally:
            pool.shutdown()

    def run(self, pool: Pool, out: str) -> None:
        """Run or go on with the stage."""
        svr, data = self.config.svr, self.config.data
        examples = ground_prompts(
            self.dataset.split("train"), svr.steps * svr.draws, none_share=svr.none_share, seed=self.config.seed,
            coordinates=data.coordinates, side=data.image_size,
        )  # fmt: skip
        target = self.folder / out
        prompts = [prompt_of(example) for example in examples]
        run_svr(self.config, self.folder / "init", target, prompts, pool, target / "metrics.jsonl", EventWriter(None))

    def outcome(self, out: str) -> tuple[list[dict[str, Any]], str]:
        """Metrics without times, and a digest of the model that the stage left."""
        lines = read_metrics(self.folder / out / "metrics.jsonl")
        return without_times(lines), digest(load_policy(self.folder / out / "model").named_parameters())


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("exact")
    settings = config(folder)
    dataset = load_studies(settings.data, settings.seed, folder / "data")
    words = corpus(dataset.split("train"), settings.data.coordinates, settings.data.image_size)
    build_tiny(settings.model, settings.data.image_size, words, settings.seed, folder / "init")
    return Stage(settings, folder, dataset)


def test_updates_after_a_resume_are_those_of_a_run_that_was_not_stopped(
    ray_cluster: None, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage.pool() as pool:
        stage.run(pool, "whole")
        stage.run(pool, "again")
        write = MetricsWriter.write

        def interrupt(self: MetricsWriter, name: str, step: int, *args: Any, **kwargs: Any) -> None:
            write(self, name, step, *args, **kwargs)
            if step == STOP:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(MetricsWriter, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            stage.run(pool, "parted")
        monkeypatch.undo()
    lines, weights = stage.outcome("whole")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert len({line["reward"] for line in lines}) > 1
    assert all(line["updated"] == 1 for line in lines)
    assert stage.outcome("again") == (lines, weights)  # one seed, one run
    assert without_times(read_metrics(stage.folder / "parted/metrics.jsonl")) == lines[:STOP]
    with stage.pool() as pool:
        stage.run(pool, "parted")
    assert stage.outcome("parted") == (lines, weights)
