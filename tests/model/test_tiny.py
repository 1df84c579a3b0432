"""The tiny backbone: real classes, digits of their own, and a start that touches the vision tower alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from boxmed_ray.config import ConfigError, ModelConfig
from boxmed_ray.data.examples import corpus
from boxmed_ray.data.phantom import make_phantom
from boxmed_ray.data.prompts import Task
from boxmed_ray.data.study import Study
from boxmed_ray.model.inputs import PromptEncoder, prompt_text
from boxmed_ray.model.policy import load_policy, load_processor, vision_token_ids
from boxmed_ray.model.tiny import build_tiny
from boxmed_ray.model.warmup import warm_up_vision

SMALL = ModelConfig(hidden_size=64, layers=2, vision_hidden_size=64, vision_layers=2)
CLASSES = {
    "qwen2_vl": (Qwen2VLForConditionalGeneration, Qwen2VLProcessor),
    "qwen2_5_vl": (Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor),
    "qwen3_vl": (Qwen3VLForConditionalGeneration, Qwen3VLProcessor),
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    folder = tmp_path_factory.mktemp("phantoms")
    return [make_phantom(index, 0, "train", folder) for index in range(48)]


@pytest.fixture(params=list(CLASSES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(studies: list[Study], tmp_path: Path, family: str) -> Path:
    small = ModelConfig.model_validate(SMALL.model_dump() | {"family": family})
    build_tiny(small, 112, corpus(studies), 0, tmp_path / "model")
    return tmp_path / "model"


def load(study: Study) -> Image.Image:
    return Image.open(study.image).convert("RGB").resize((112, 112))


def test_the_folder_loads_as_the_classes_of_a_full_size_model(folder: Path, family: str) -> None:
    model, processor = CLASSES[family]
    assert isinstance(load_policy(folder), model)
    assert isinstance(load_processor(folder), processor)


def test_every_digit_is_a_token_and_text_comes_back_unchanged(folder: Path) -> None:
    tokenizer = load_processor(folder).tokenizer
    text = "<think>Lung Lesion -> left lung</think><answer>[412, 7, 1000, 990], [1, 2, 3, 4]</answer>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("41271000990" + "1234")


def test_words_outside_the_corpus_survive_too(folder: Path) -> None:
    tokenizer = load_processor(folder).tokenizer
    text = "Größe 3 µm, 肺炎 😀"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_placeholders_of_pixels_are_known_by_id(folder: Path) -> None:
    tokenizer = load_processor(folder).tokenizer
    names = tokenizer.convert_ids_to_tokens(vision_token_ids(tokenizer))
    assert {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"} <= set(names)


def test_prompts_are_encoded_as_the_processor_itself_does(folder: Path) -> None:
    processor = load_processor(folder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8))
    text = prompt_text(processor, Task.GROUND, "There is a nodule.")
    ours = PromptEncoder(processor).encode("a", image, text)
    theirs = processor(text=[text], images=[image], return_tensors="pt")
    assert torch.equal(ours.input_ids, theirs["input_ids"][0])
    assert torch.equal(ours.pixel_values, theirs["pixel_values"])
    assert torch.equal(ours.image_grid_thw, theirs["image_grid_thw"])


@pytest.mark.parametrize("text", ["no image", "<|image_pad|><|image_pad|>"])
def test_a_prompt_without_exactly_one_placeholder_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        PromptEncoder(load_processor(folder)).encode("a", Image.new("L", (112, 112)), text)


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(studies: list[Study], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_tiny(SMALL, 112, corpus(studies), seed, tmp_path / name)
    first, same, other = (load_policy(tmp_path / name).model.visual.patch_embed.proj.weight for name in "abc")
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_an_image_size_that_patches_do_not_fill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 56"):
        build_tiny(SMALL, 84, ["words"], 0, tmp_path)


def test_the_warm_up_learns_and_leaves_the_language_model_alone(folder: Path, studies: list[Study]) -> None:
    before = {name: value.clone() for name, value in load_policy(folder).state_dict().items()}
    losses: list[float] = []
    warm_up_vision(folder, studies, load, steps=30, seed=0, threads=1, on_step=lambda _, loss: losses.append(loss))
    after = load_policy(folder).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".visual." in name for name in changed)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
