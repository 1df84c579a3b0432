"""From image and words to model inputs, once per image and once per prompt.

What lives here: the chat template applied, image tokens expanded exactly once, pixel patches cached.
What does not: batching (stages/, shared_prefix.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from boxmed_ray.data import prompts


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """One encoded prompt.

    Attributes:
        input_ids: [P] token ids, the image placeholder expanded to one id per merged patch.
        pixel_values: [patches, channels·2·14·14] float32.
        image_grid_thw: [1, 3] patches in time, height and width.
    """

    input_ids: torch.Tensor
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor


def prompt_text(processor: Any, task: prompts.Task, phrase: str | None = None) -> str:
    """The prompt with ONE image placeholder, as vLLM takes it."""
    return processor.apply_chat_template(prompts.chat(task, phrase), add_generation_prompt=True, tokenize=False)


class PromptEncoder:
    """Encodes prompts; keeps each image's patches under the key given for it.

    Memory: 4 bytes x patches x 1176 an image (301 kB at 112 px); nothing is ever dropped, so one
    encoder serves one data set.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._images: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._image_token: str = processor.image_token
        self._merge: int = processor.image_processor.merge_size**2

    def pixels(self, key: str, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches and grid of the image known as ``key``; computed on the first call."""
        if key not in self._images:
            out = self._processor.image_processor(images=[image.convert("RGB")], return_tensors="pt")
            self._images[key] = (out["pixel_values"], out["image_grid_thw"])
        return self._images[key]

    def known(self, key: str) -> bool:
        """Whether ``encode`` needs no image for ``key``."""
        return key in self._images

    def encode(self, key: str, image: Image.Image | None, text: str) -> PromptInputs:
        """Encode ``text`` (with one image placeholder) about the image known as ``key``.

        Raises:
            ValueError: the text does not hold exactly one placeholder, or an unknown key has no image.
        """
        count = text.count(self._image_token)
        if count != 1:
            raise ValueError(f"a prompt must hold exactly one {self._image_token}; found {count}")
        if image is None and not self.known(key):
            raise ValueError(f"image {key!r} is not cached and none was given")
        pixel_values, grid = self._images[key] if image is None else self.pixels(key, image)
        tokens = int(grid.prod()) // self._merge
        ids = self._processor.tokenizer(
            text.replace(self._image_token, self._image_token * tokens), add_special_tokens=False
        )["input_ids"]
        return PromptInputs(torch.tensor(ids, dtype=torch.long), pixel_values, grid)
