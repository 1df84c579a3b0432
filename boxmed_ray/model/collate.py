"""From (image file, task, phrase, responses) to the tensors of one group, with images kept as bytes.

What lives here: the caches that make an image and a prompt cost their processing once a process.
What does not: the chat template (inputs.py), the forward pass (shared_prefix.py), who draws which
example (stages/, actors/).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from boxmed_ray.data.images import load_square
from boxmed_ray.data.prompts import Task
from boxmed_ray.model.inputs import prompt_text
from boxmed_ray.model.shared_prefix import GroupInputs


class GroupEncoder:
    """Encodes groups for training.

    Args:
        processor: tokenizer and image processor of the policy.
        image_size: side in pixels of the square that every image is resized to.
        cache: folder of resized images (data/images.py), or None.
        budget: bytes of images kept; the least recently used go first. Images are kept as the bytes
            they were before normalisation: 38 kB at 112 px, an eighth of what the model takes in.
    """

    def __init__(self, processor: Any, image_size: int, cache: Path | None = None, budget: int = 1 << 30) -> None:
        self._processor, self._side, self._cache, self._budget = processor, image_size, cache, budget
        self._images: OrderedDict[str, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()
        self._bytes = 0
        self._prompts: dict[tuple[Task, str | None, int], torch.Tensor] = {}
        self._compact = _Compact.of(processor.image_processor, image_size)
        self._merge: int = processor.image_processor.merge_size**2

    def group(self, image: Path, task: Task, phrase: str | None, responses: Sequence[torch.Tensor]) -> GroupInputs:
        """One prompt about one image with its responses, each [R_i] token ids.

        Raises:
            DataError: the image cannot be read.
        """
        pixels, grid = self.pixels(image)
        return GroupInputs(self.prompt_ids(task, phrase, int(grid.prod())), pixels, grid, list(responses))

    def pixels(self, image: Path) -> tuple[torch.Tensor, torch.Tensor]:
        """[patches, dim] float32 as the image processor gives them, and the grid [1, 3]."""
        key = str(image)
        if key in self._images:
            self._images.move_to_end(key)
        else:
            self._keep(key, load_square(image, self._side, self._cache))
        stored, grid = self._images[key]
        return (self._compact.expand(stored) if self._compact else stored), grid

    def prompt_ids(self, task: Task, phrase: str | None, patches: int) -> torch.Tensor:
        """[P] token ids of the prompt, the image placeholder expanded once to one id per merged patch."""
        key = (task, phrase, patches)
        if key not in self._prompts:
            token = self._processor.image_token
            text = prompt_text(self._processor, task, phrase)
            if text.count(token) != 1:
                raise ValueError(f"a prompt must hold exactly one {token}; {text!r} holds {text.count(token)}")
            ids = self._tokens(text.replace(token, token * (patches // self._merge)))
            self._prompts[key] = torch.tensor(ids)
        return self._prompts[key]

    def response_ids(self, text: str) -> torch.Tensor:
        """[R] token ids of a reference response with the end-of-turn token that the policy must learn."""
        return torch.tensor([*self._tokens(text), self._processor.tokenizer.eos_token_id])

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _keep(self, key: str, image: Image.Image) -> None:
        processor = self._processor.image_processor
        if self._compact:
            out = processor(images=[image], return_tensors="pt", do_rescale=False, do_normalize=False)
            entry = self._compact.shrink(out["pixel_values"]), out["image_grid_thw"]
        else:
            out = processor(images=[image], return_tensors="pt")
            entry = out["pixel_values"], out["image_grid_thw"]
        self._images[key] = entry
        self._bytes += entry[0].nbytes
        while self._bytes > self._budget and len(self._images) > 1:
            _, (dropped, _) = self._images.popitem(last=False)
            self._bytes -= dropped.nbytes


class _Compact:
    """Patches as bytes: one of the equal frames of a still image, before rescaling and normalisation.

    A patch of the Qwen processors is [channel, frame, side, side], flat.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], frames: int) -> None:
        self._mean = 255 * torch.tensor(mean).view(1, -1, 1, 1)
        self._std = 255 * torch.tensor(std).view(1, -1, 1, 1)
        self._frames = frames

    @classmethod
    def of(cls, processor: Any, image_size: int) -> _Compact | None:
        """None where this processor's output is not what ``expand`` makes of the bytes, tried on an image."""
        needed = ("image_mean", "image_std", "temporal_patch_size")
        if any(getattr(processor, name, None) is None for name in needed):
            return None
        noise = np.random.default_rng(0).integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        compact = cls(processor.image_mean, processor.image_std, processor.temporal_patch_size)
        raw = processor(images=[image], return_tensors="pt", do_rescale=False, do_normalize=False)["pixel_values"]
        true = processor(images=[image], return_tensors="pt")["pixel_values"]
        if raw.dtype is not torch.uint8:
            return None
        again = compact.expand(compact.shrink(raw))
        return compact if again.shape == true.shape and torch.allclose(again, true, atol=1e-6) else None

    def shrink(self, raw: torch.Tensor) -> torch.Tensor:
        """[patches, channels·frames·side²] uint8 → [patches, channels, side²]."""
        return raw.view(raw.shape[0], self._mean.shape[1], self._frames, -1)[:, :, 0].contiguous()

    def expand(self, stored: torch.Tensor) -> torch.Tensor:
        """The float32 patches that the processor would give."""
        normal = (stored[:, :, None].float() - self._mean) / self._std
        return normal.expand(-1, -1, self._frames, -1).reshape(stored.shape[0], -1)
