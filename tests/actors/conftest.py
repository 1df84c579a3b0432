"""Engines shared by the tests of this folder: starting one takes seconds, importing vLLM more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from boxmed_ray.config import ModelConfig
from boxmed_ray.data.prompts import Task
from boxmed_ray.model.inputs import PromptEncoder, prompt_text
from boxmed_ray.model.policy import load_policy, load_processor, vision_token_ids
from boxmed_ray.model.tiny import build_tiny

IMAGE_SIZE = 56


@dataclass
class Served:
    """A model folder, an engine on it, and the same model in transformers, which plays the learner."""

    folder: Path
    engine: Any
    learner: Any
    processor: Any
    encoder: PromptEncoder

    @property
    def banned(self) -> list[int]:
        return vision_token_ids(self.processor.tokenizer)

    def text(self, phrase: str = "opacity in the right lung") -> str:
        return prompt_text(self.processor, Task.GROUND, phrase)

    def perturb(self, seed: int, scale: float = 0.05) -> None:
        """Move every weight of the learner."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.learner.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))

    def learner_logits(
        self, text: str, image: Image.Image | None, response: list[int], *, ban: bool = True
    ) -> torch.Tensor:
        """[R, V] logits that transformers gives before each response token, banned ids out."""
        ids, extra = self._inputs(text, image)
        row = torch.cat([ids, torch.tensor(response, dtype=torch.long)])[None]
        if image is not None:
            extra["mm_token_type_ids"] = (row == self.learner.config.image_token_id).int()
        with torch.no_grad():
            logits = self.learner(input_ids=row, attention_mask=torch.ones_like(row), **extra).logits
        logits = logits[0, len(ids) - 1 : -1]
        if ban:
            logits[:, self.banned] = -torch.inf
        return logits

    def learner_logprobs(
        self, text: str, image: Image.Image | None, response: list[int], temperature: float = 1.0
    ) -> torch.Tensor:
        """[R] log-probabilities of the response tokens."""
        scaled = (self.learner_logits(text, image, response) / temperature).log_softmax(-1)
        return scaled.gather(1, torch.tensor(response)[:, None])[:, 0]

    def learner_greedy(self, text: str, image: Image.Image | None, tokens: int) -> list[int]:
        """The response of transformers' own greedy generation."""
        ids, extra = self._inputs(text, image)
        if image is not None:
            extra["mm_token_type_ids"] = (ids[None] == self.learner.config.image_token_id).int()
        row = self.learner.generate(
            input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], do_sample=False, max_new_tokens=tokens,
            suppress_tokens=self.banned, **extra,
        )  # fmt: skip
        return row[0, len(ids) :].tolist()

    def _inputs(self, text: str, image: Image.Image | None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if image is None:
            return torch.tensor(self.processor.tokenizer(text)["input_ids"]), {}
        encoded = self.encoder.encode(str(hash(image.tobytes())), image, text)
        return encoded.input_ids, {"pixel_values": encoded.pixel_values, "image_grid_thw": encoded.image_grid_thw}


def random_image(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def _build(folder: Path, *, tied: bool) -> Path:
    corpus = ["Locate in this chest X-ray: opacity in the right lung", "nodule effusion [123, 45, 678, 900]"] * 8
    sizes = ModelConfig(hidden_size=64, layers=2, vision_hidden_size=64, vision_layers=2, vocabulary=320)
    build_tiny(sizes, IMAGE_SIZE, corpus, seed=1, folder=folder)
    if not tied:
        model = load_policy(folder)
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
        generator = torch.Generator().manual_seed(2)
        weight = torch.randn(model.lm_head.weight.shape, generator=generator) * 0.05
        model.lm_head.weight = torch.nn.Parameter(weight)
        model.save_pretrained(folder)
    return folder


def serve(folder: Path, **options: Any) -> Served:
    """An engine on ``folder``, in this process."""
    from boxmed_ray.actors import vllm_env
    from boxmed_ray.actors.rollout_io import EngineOptions

    vllm_env.prepare(threads=1)
    from boxmed_ray.actors.vllm_engine import RolloutEngine

    engine = RolloutEngine(folder, EngineOptions(max_model_len=192, max_sequences=32, kv_cache_gb=0.03, **options))
    processor = load_processor(folder)
    return Served(folder, engine, load_policy(folder), processor, PromptEncoder(processor))


@pytest.fixture(scope="session")
def tied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(tmp_path_factory.mktemp("tied"), tied=True)


# Engines are not shut down: in one process they share vLLM's process groups, and the first to go would take them away.


@pytest.fixture(scope="session")
def tied(tied_folder: Path) -> Served:
    return serve(tied_folder)


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve(_build(tmp_path_factory.mktemp("untied"), tied=False))


@pytest.fixture(scope="session")
def adapted(tied_folder: Path) -> Served:
    return serve(tied_folder, lora_rank=8)
