"""The recipes of real models, without their weights: their settings on the same architecture shrunk.

At real size their plans and counts are checked in tests/placement.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxmed_ray.actors.learn_batch import learn_groups, split
from boxmed_ray.actors.learner import LearnerRank
from boxmed_ray.config import ModelConfig, RunConfig, load_config, recipe_names
from boxmed_ray.data.prompts import CLOSE_ANSWER, OPEN_THINK, Task
from boxmed_ray.model.architecture import backbone_config
from boxmed_ray.model.inputs import PromptEncoder, prompt_text
from boxmed_ray.model.policy import load_policy, load_processor, vision_token_ids
from boxmed_ray.model.tiny import IM_END, build_tiny
from boxmed_ray.placement.search import changed
from rewards.registry import check
from tests import one_rank
from tests.actors.learner_cases import PHRASES, scored_groups

REAL = ("boxmed-qwen2-vl-2b", "radvlm-qwen3-vl-8b")
SIDE = 56


def shrunk(recipe: str, folder: Path) -> RunConfig:
    """The recipe on its own architecture at the smallest size; all that it says about learning stays."""
    config = load_config(recipe)
    family = backbone_config(config.model.name_or_path).model_type
    small = ModelConfig.model_validate(
        {"family": family, "hidden_size": 64, "layers": 3, "vision_hidden_size": 32, "vision_layers": 3}
        | {"vocabulary": 320, "dtype": config.model.dtype}
        | {"gradient_checkpointing": config.model.gradient_checkpointing}
    )
    values: dict[str, Any] = {
        "runs_dir": str(folder),
        "model": small.model_dump(),
        "data": {"kind": "phantom", "image_size": SIDE},
        "resources": {"learner_ranks": 1},
    }
    return changed(config, values)


@pytest.fixture(scope="module", params=REAL)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    one_rank.join()
    folder = tmp_path_factory.mktemp(request.param)
    config = shrunk(request.param, folder)
    build_tiny(config.model, SIDE, [*PHRASES, "Locate in this chest X-ray: [123, 456]"], 0, folder / "init")
    return config, folder


def test_all_recipes_are_valid_and_their_rewards_exist() -> None:
    for name in recipe_names():
        config = load_config(name)
        for rewards in (config.svr.rewards, *config.svr.task_rewards.values()):
            here = {reward: weight for reward, weight in rewards.items() if reward != "radcliq_v1"}  # needs weights
            if here:
                check(here, {})


def test_the_published_values_are_in_the_recipes() -> None:
    boxmed, radvlm = (load_config(name) for name in REAL)
    assert (boxmed.mcl.epochs, boxmed.mcl.lr, boxmed.mcl.min_lr_ratio) == (2, 1e-4, 0)
    assert (boxmed.svr.epochs, boxmed.svr.rewards) == (4, {"iou": 1.0, "format": 1.0})
    assert (boxmed.adapter.epochs, boxmed.adapter.rank) == (2, 8)
    assert boxmed.mcl.batch_size == boxmed.resources.train_workers  # one a GPU
    assert boxmed.data.image_size**2 == pytest.approx(2544 * 3056 / 16, rel=0.02)
    svr = radvlm.svr
    assert (svr.group_size, svr.kl_beta, svr.clip_low, svr.clip_high) == (8, 0.01, 0.2, 0.28)
    assert svr.prompts_per_step == 512
    assert "soft_f1" in svr.task_rewards["grounding"]
    assert svr.task_rewards["report"] == {"radcliq_v1": 1.0}  # needs weights that are not here: refused at start


@pytest.mark.parametrize("name", REAL)
def test_images_fill_whole_tokens_of_the_real_backbone(name: str) -> None:
    config = load_config(name)
    vision = backbone_config(config.model.name_or_path).vision_config
    assert config.data.image_size % (vision.patch_size * vision.spatial_merge_size) == 0


def test_the_shrunk_backbone_is_of_the_class_of_the_real_one(case: tuple[RunConfig, Path]) -> None:
    config, folder = case
    real = backbone_config(load_config(config.name).model.name_or_path)
    assert [type(load_policy(folder / "init")).__name__] == real.architectures


def test_one_update_with_the_recipes_own_settings_moves_the_policy(case: tuple[RunConfig, Path]) -> None:
    config, folder = case
    config = changed(config, {"svr.warmup_steps": 0, "svr.steps": 2, "svr.epochs": None})
    rank = LearnerRank(config, folder / "init", 0, 1)
    rank.connect(("127.0.0.1", 1))
    groups = scored_groups(folder, 4, responses=config.svr.group_size)
    before = {name: value.detach().clone() for name, value in rank._model.named_parameters()}
    batch = split(learn_groups(groups, config.svr.scale), 1, config.svr.micro_tokens)[0]
    found = rank.learn(batch)
    assert found["updated"]
    assert found["bad_samples"] == []
    assert np.isfinite(found["loss"])
    assert found["kl"] == pytest.approx(0.0, abs=1e-3)  # of the policy to itself
    # bfloat16 has eight bits: a step of 1e-6 moves few weights, and the float32 copies of all.
    assert any(not torch.equal(value, before[name]) for name, value in rank._model.named_parameters())


def test_prompts_and_special_tokens_as_the_real_tokenizer_has_them(case: tuple[RunConfig, Path]) -> None:
    config, folder = case
    processor = load_processor(folder / "init")
    tokenizer = processor.tokenizer
    real = backbone_config(load_config(config.name).model.name_or_path)
    shown = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    names = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    ours = load_policy(folder / "init").config
    assert [getattr(ours, key) for key in shown] == tokenizer.convert_tokens_to_ids(list(names))
    assert all(getattr(real, key) > 151_600 for key in shown)  # placeholders lie behind the words, as they do here
    assert set(tokenizer.convert_tokens_to_ids(list(names))) <= set(vision_token_ids(tokenizer))
    assert tokenizer.eos_token == IM_END
    image = scored_image()
    encoded = PromptEncoder(processor).encode("a", image, prompt_text(processor, Task.GROUND, "Cardiomegaly."))
    count = int((encoded.input_ids == ours.image_token_id).sum())
    merged = config.model.patch_size * ours.vision_config.spatial_merge_size
    assert count == (SIDE // merged) ** 2
    assert tokenizer.decode(tokenizer(OPEN_THINK + "7" + CLOSE_ANSWER)["input_ids"]) == OPEN_THINK + "7" + CLOSE_ANSWER


def scored_image() -> Any:
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
