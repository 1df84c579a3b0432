"""Supervised stages and the learner group on real Ray: two workers, interrupted, resumed, failed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boxmed_ray.actors.learner_group import LearnerError, LearnerGroup
from boxmed_ray.checkpoint import CheckpointError
from boxmed_ray.model.policy import digest, load_policy
from boxmed_ray.stages.supervised import StageError, train_supervised
from boxmed_ray.stages.watch import DivergedError
from tests import one_rank
from tests.actors import learner_cases, rank_program
from tests.stages import supervised_cases as cases

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

STEPS = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return cases.backbone(cases.config(folder), folder)


def stage(kind: Any, folder: Path, model: Path, out: str, on_progress: Any, resume: bool = False) -> dict[str, Any]:
    config = cases.config(folder, workers=2, steps=STEPS, checkpoint_every=1000)
    return train_supervised(kind, config, model, cases.examples(folder), folder / out, on_progress, resume)


def test_an_interrupted_stage_resumes_to_the_same_weights(ray_cluster: None, tmp_path: Path, model: Path) -> None:
    whole: list[dict[str, Any]] = []
    assert stage("mcl", tmp_path, model, "whole", whole.append) == {"steps": STEPS}
    assert [line["step"] for line in whole] == list(range(1, STEPS + 1))
    parted: list[dict[str, Any]] = []

    def interrupt(line: dict[str, Any]) -> None:
        parted.append(line)
        if line["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage("mcl", tmp_path, model, "parted", interrupt)
    checkpoints = list((tmp_path / "parted" / "checkpoints").iterdir())
    assert len(checkpoints) == 1
    stopped_at = json.loads((checkpoints[0] / "state.json").read_text())["step"]
    assert 3 <= stopped_at < STEPS
    assert not (tmp_path / "parted" / "model").exists()
    rest: list[dict[str, Any]] = []
    stage("mcl", tmp_path, model, "parted", rest.append, resume=True)
    # Told from the beginning: a listener that was killed may not have heard of the last steps before the checkpoint.
    assert [(line["step"], line["loss"]) for line in rest] == [(line["step"], line["loss"]) for line in whole]
    assert rest[:3] == parted[:3]  # with their times
    assert len({line["time"] for line in rest}) == STEPS
    told: list[dict[str, Any]] = []
    assert stage("mcl", tmp_path, model, "parted", told.append, resume=True) == {"steps": STEPS}
    assert told == rest  # killed after the model was written, before the stage was marked done
    ends = [digest(load_policy(tmp_path / out / "model").named_parameters()) for out in ("whole", "parted")]
    assert ends[0] == ends[1]


def test_the_adapter_leaves_the_backbone_alone(ray_cluster: None, tmp_path: Path, model: Path) -> None:
    result = stage("adapter", tmp_path, model, "adapter", lambda _: None)
    assert result["backbone_before"] == result["backbone_after"]
    assert result["backbone_before"] == digest(load_policy(model).named_parameters())
    assert (tmp_path / "adapter" / "adapter" / "adapter_config.json").is_file()


def test_a_worker_that_fails_ends_the_stage_with_its_own_error(ray_cluster: None, tmp_path: Path, model: Path) -> None:
    made = cases.examples(tmp_path)
    made[0].study.image.write_bytes(b"no image")
    config = cases.config(tmp_path, workers=1, steps=3)
    with pytest.raises(StageError, match=r"0\.png"):
        train_supervised("mcl", config, model, made, tmp_path / "out", lambda _: None, False)


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_the_stage_with_one_message(
    ray_cluster: None, tmp_path: Path, model: Path
) -> None:
    config = cases.config(tmp_path, workers=2, steps=4, checkpoint_every=2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError) as error:
        train_supervised("mcl", config, model, cases.examples(tmp_path), tmp_path / "out", lambda _: None, False)
    assert "stage mcl: the checkpoint of step 2 cannot be written" in str(error.value)
    assert "File exists" in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_stage_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path: Path, model: Path) -> None:
    """Nor does it start a worker: there is no Ray here."""
    config = cases.config(tmp_path, workers=2, steps=4)
    (tmp_path / "out" / "checkpoints" / "step-00000002").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"no usable checkpoint.*step-00000002"):
        train_supervised("mcl", config, model, cases.examples(tmp_path), tmp_path / "out", lambda _: None, True)


def test_a_stage_that_diverges_ends_with_one_message(ray_cluster: None, tmp_path: Path, model: Path) -> None:
    config = cases.config(tmp_path, workers=2, steps=20, warmup_steps=0, lr=1e30, checkpoint_every=100)
    lines: list[dict[str, Any]] = []
    with pytest.raises(DivergedError) as error:
        train_supervised("mcl", config, model, cases.examples(tmp_path), tmp_path / "out", lines.append, False)
    assert [line["skipped"] for line in lines] == [False, True, True, True]  # the first step breaks the weights
    assert "stage mcl stopped" in str(error.value)
    assert "3 steps in a row (mcl.max_bad_steps = 3)" in str(error.value)
    assert str(tmp_path) in str(error.value)  # of an example
    assert "Traceback" not in str(error.value)


def test_kl_in_the_reward_is_compared_over_all_ranks(ray_cluster: None, tmp_path: Path) -> None:
    config = learner_cases.config(tmp_path, ranks=2, **rank_program.CHOICES)
    group = LearnerGroup(config, learner_cases.model_folder(config, tmp_path))
    one_rank.join()
    alone = rank_program.learner(tmp_path, 0, 1, 1, **rank_program.CHOICES)
    expected = rank_program.learn(alone, tmp_path, range(2))
    group.start()
    try:
        for update, one in enumerate(expected):
            two = group.learn(rank_program.groups_of(tmp_path, update))
            assert two["kl_penalty"] > 0
            for name in ("loss", "grad_norm", "kl"):
                assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6)
    finally:
        group.shutdown()


def test_learner_ranks_learn_checkpoint_and_fail_with_their_own_error(
    ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = learner_cases.config(tmp_path, ranks=2)
    group = LearnerGroup(config, learner_cases.model_folder(config, tmp_path))
    group.start()
    try:
        scored = learner_cases.scored_groups(tmp_path, 5)
        metrics = group.learn(scored)
        assert metrics["updated"] == 1
        assert metrics["tokens"] == sum(learner_cases.lengths(scored))
        group.save_checkpoint(tmp_path / "checkpoints", 1, {"position": 5}, 0.5)
        second = group.learn(scored)
        (tmp_path / "checkpoints" / "step-00000002").mkdir()  # nothing in it
        assert group.load_checkpoint(tmp_path / "checkpoints") == (1, {"position": 5, "weight_version": 1})
        assert "DAMAGED CHECKPOINT" in caplog.text  # told by this process, whose words the user sees
        again = group.learn(scored)
        assert (again["loss"], again["grad_norm"]) == (second["loss"], second["grad_norm"])
        group.save_model(tmp_path / "out" / "model")
        assert torch.isfinite(next(load_policy(tmp_path / "out" / "model").parameters())).all()
        prompt = replace(scored[0].group.prompt, image=str(tmp_path / "missing.png"))
        broken = replace(scored[0], group=replace(scored[0].group, prompt=prompt))
        with pytest.raises(LearnerError, match=r"rank \d failed in learn(.|\n)*missing\.png"):
            group.learn([broken])
        assert group.ranks == []
    finally:
        group.shutdown()


def test_a_checkpoint_that_the_learner_cannot_write_is_told_in_one_message(ray_cluster: None, tmp_path: Path) -> None:
    config = learner_cases.config(tmp_path, ranks=2)
    group = LearnerGroup(config, learner_cases.model_folder(config, tmp_path))
    (tmp_path / "checkpoints").write_text("in the way")
    group.start()
    try:
        with pytest.raises(CheckpointError) as error:
            group.save_checkpoint(tmp_path / "checkpoints", 3, {})
        assert str(error.value).startswith("stage svr: the checkpoint of step 3 cannot be written")
        assert "Traceback" not in str(error.value)
        assert group.ranks == []
    finally:
        group.shutdown()
