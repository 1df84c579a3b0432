"""Prompts into vLLM: encoded as the learner encodes them, and bounded in memory.

What lives here: from text and image to an engine input. What does not: sampling (vllm_engine.py).

Image and text go through the same PromptEncoder as in the learner and enter vLLM ready: both sides see
the same token ids and the same pixels, and nothing can expand a placeholder twice.
"""

from __future__ import annotations

import hashlib
from typing import Any

from PIL import Image

from boxmed_ray.actors.rollout_io import EnginePrompt
from boxmed_ray.model.inputs import PromptEncoder

_MAX_CACHED_IMAGES = 512
"""Encoded images kept between calls (301 kB each at 112 px); beyond it all are dropped, so memory is bounded."""


class EngineInputs:
    """Turns prompts into vLLM's engine inputs.

    Args:
        processor: tokenizer and image processor of the policy.
        model_config: of the vLLM engine.
        max_model_len: tokens of prompt and response.
    """

    def __init__(self, processor: Any, model_config: Any, max_model_len: int) -> None:
        from vllm.multimodal import MULTIMODAL_REGISTRY

        self._processor, self._tokenizer = processor, processor.tokenizer
        self._image_token: str = processor.image_token
        self._image_token_id: int = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        self._max_model_len = max_model_len
        # vLLM's own description of how the model's image tensors are split by image.
        self._fields = MULTIMODAL_REGISTRY.create_processor(model_config)._get_mm_fields_config
        self._encoder = PromptEncoder(processor)
        self._images: set[str] = set()

    def encode(self, index: int, prompt: EnginePrompt, max_new_tokens: int) -> Any:
        """One prompt as an engine input; ``index`` is for messages.

        Raises:
            ValueError: placeholder and image do not agree, or prompt and response do not fit.
        """
        placeholders = prompt.text.count(self._image_token)
        if placeholders != (prompt.image is not None):
            raise ValueError(
                f"prompt {index} has {placeholders} of {self._image_token} and "
                f"{'no' if prompt.image is None else 'one'} image; give one placeholder, not expanded, per image"
            )
        if prompt.image is None:
            ids = self._tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
            result: Any = {"type": "token", "prompt_token_ids": ids}
        else:
            result = self._with_image(prompt.text, prompt.image)
        length = len(result["prompt_token_ids"])
        if length + max_new_tokens > self._max_model_len:
            raise ValueError(
                f"prompt {index} has {length} tokens and may get {max_new_tokens} more, but the engine holds "
                f"{self._max_model_len}; raise model.max_length or use smaller images (nothing is cut off)"
            )
        return result

    def _with_image(self, text: str, image: Image.Image) -> Any:
        from transformers import BatchFeature
        from vllm.inputs.engine import mm_input
        from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

        # By content: a name that came to mean another image would bring back the old one's encoding.
        header = f"{image.mode}{image.size}".encode()
        key = hashlib.blake2b(header + image.tobytes(), digest_size=16).hexdigest()
        if key not in self._images and len(self._images) >= _MAX_CACHED_IMAGES:
            self._encoder, self._images = PromptEncoder(self._processor), set()
        self._images.add(key)
        encoded = self._encoder.encode(key, image, text)
        ids = encoded.input_ids.tolist()
        features = BatchFeature({"pixel_values": encoded.pixel_values, "image_grid_thw": encoded.image_grid_thw})
        place = PlaceholderRange(offset=ids.index(self._image_token_id), length=ids.count(self._image_token_id))
        return mm_input(
            ids,
            MultiModalKwargsItems.from_hf_inputs(features, self._fields(features, {})),
            {"image": [key]},
            {"image": [place]},
        )
