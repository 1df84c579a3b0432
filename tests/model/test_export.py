"""The model of a checkpoint is the one that the learner had when it wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from boxmed_ray.actors.learn_batch import learn_groups, split
from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.checkpoint import CheckpointError
from boxmed_ray.commands.export import export
from boxmed_ray.config import ConfigError, LoraConfig, TrainableConfig
from boxmed_ray.model.policy import add_lora, digest, load_policy, load_processor
from tests import one_rank
from tests.actors.learner_cases import config, model_folder, scored_groups

LORA = TrainableConfig(vision_tower=False, lora=LoraConfig(rank=2, alpha=8))


@pytest.mark.parametrize("train", [TrainableConfig(), LORA])
def test_each_checkpoint_gives_the_model_of_its_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], train: TrainableConfig
) -> None:
    one_rank.join()
    settings = config(tmp_path, train=train, keep_checkpoints=2, lr=1e-2)
    run = tmp_path / "learner"
    backbone = model_folder(settings, tmp_path)
    (run / "stages/mcl").mkdir(parents=True)
    backbone.rename(run / "stages/mcl/model")
    (run / "config.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    rank = LearnerRank(settings, run / "stages/mcl/model", 0, 1)
    rank.connect(("127.0.0.1", 1))
    checkpoints, expected = run / "stages/svr/checkpoints", []
    for step, score in enumerate((0.9, 0.1, 0.2), 1):
        [batch] = split(learn_groups(scored_groups(tmp_path, 2, seed=step), "group"), 1, settings.svr.micro_tokens)
        rank.learn(batch)
        rank.save_checkpoint(checkpoints, step, {}, score)
        rank.save_model(tmp_path / f"after-{step}")
        expected.append(digest(load_policy(tmp_path / f"after-{step}").named_parameters()))
    for which, step in (("best", 1), ("last", 3), ("2", 2)):
        target = tmp_path / "out" / which
        export(run, target, which)
        assert digest(load_policy(target).named_parameters()) == expected[step - 1]
        assert load_processor(target).image_token == "<|image_pad|>"
        assert f"after {step} updates" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="exists"):
        export(run, tmp_path / "out" / "best", "best")
    with pytest.raises(ConfigError, match="use best, last or one of: 1, 2, 3"):
        export(run, tmp_path / "none", "4")
    file = checkpoints / "step-00000001" / "engine.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="step-00000001"):
        export(run, tmp_path / "none", "best")
    other = settings.model_copy(update={"svr": settings.svr.model_copy(update={"train": _other(train)})})
    (run / "config.yaml").write_text(yaml.safe_dump(other.model_dump(mode="json")))
    with pytest.raises(KeyError, match=r"svr\.train"):
        export(run, tmp_path / "none", "last")
    assert len(set(expected)) == 3


def test_the_merged_model_is_the_backbone_with_its_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, run = config(tmp_path), tmp_path / "run"
    (run / "stages/mcl").mkdir(parents=True)
    model_folder(settings, tmp_path).rename(run / "stages/mcl/model")
    (run / "config.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    with pytest.raises(ConfigError, match="adapter to merge"):
        export(run, tmp_path / "merged", "merged")
    adapted = add_lora(load_policy(run / "stages/mcl/model", torch.float32), 2, 8)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(run / "stages/adapter/adapter")
    export(run, tmp_path / "merged", "merged")
    assert "adapter merged" in capsys.readouterr().out
    merged, ids = load_policy(tmp_path / "merged"), torch.arange(10, 30)[None]
    with torch.inference_mode():
        ours, theirs = merged(input_ids=ids).logits, adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            without = adapted(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - without).abs().max() > 0.01
    assert load_processor(tmp_path / "merged").image_token == "<|image_pad|>"


def _other(train: TrainableConfig) -> TrainableConfig:
    return TrainableConfig() if train.lora else LORA
