"""A tiny Qwen-VL from scratch: the real architecture and processors, small enough for two cores.

What lives here: the sizes, the tokenizer trained on the run's own words, the initial weights. What
does not: loading (policy.py). Every class is the one a full-size Qwen2-VL, Qwen2.5-VL or Qwen3-VL uses; digits are
single tokens, as their tokenizer has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from boxmed_ray.config import ConfigError, ModelConfig
from boxmed_ray.data.prompts import CLOSE_ANSWER, CLOSE_THINK, OPEN_ANSWER, OPEN_THINK

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (
    END_OF_TEXT,
    IM_START,
    IM_END,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = (OPEN_THINK, CLOSE_THINK, OPEN_ANSWER, CLOSE_ANSWER)

INITIALIZER_RANGE = 0.06
_HEAD = 32

_FAMILIES: dict[str, tuple[Any, Any, Any]] = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLProcessor, Qwen2VLVideoProcessor),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLProcessor, Qwen3VLVideoProcessor),
}
"""Configuration, processor and video processor of each."""
_TOKEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_TEXT_IDS = {"bos_token_id": END_OF_TEXT, "eos_token_id": IM_END, "pad_token_id": END_OF_TEXT}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The family's turn format without its default system turn, which would cost more tokens than the prompt."""


def build_tokenizer(corpus: Iterable[str], vocabulary: int) -> Qwen2Tokenizer:
    """Train byte-level BPE with Qwen2's own pre-tokenisation (single digits) on ``corpus``."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(TAGS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    tokenizer = Qwen2Tokenizer(vocab=backend.get_vocab(), merges=_merges(backend))
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.eos_token, tokenizer.pad_token = IM_END, END_OF_TEXT
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _merges(backend: Tokenizer) -> list[tuple[str, str]]:
    # Merges are readable from a trained tokenizer only through its serialised form.
    merges: list[list[str]] = json.loads(backend.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def build_tiny(config: ModelConfig, image_size: int, corpus: Iterable[str], seed: int, folder: Path) -> None:
    """Write a complete model folder: configuration, random weights, tokenizer, image processor.

    Args:
        config: sizes.
        image_size: side of the square that every image is resized to, a multiple of 28.
        corpus: texts of the run, on which the tokenizer is trained.
        seed: of the initial weights.
        folder: written to; transformers and vLLM load it as it is.
    """
    tokenizer = build_tokenizer(corpus, config.vocabulary)
    pixels = {"shortest_edge": image_size**2, "longest_edge": image_size**2}
    _, processor_class, video_class = _FAMILIES[config.family]
    processor = processor_class(
        image_processor=Qwen2VLImageProcessor(size=pixels, patch_size=config.patch_size),
        tokenizer=tokenizer,
        video_processor=video_class(size=pixels, patch_size=config.patch_size),
        chat_template=CHAT_TEMPLATE,
    )
    if image_size % (2 * config.patch_size):
        raise ConfigError(
            f"data.image_size = {image_size}: must be a multiple of {2 * config.patch_size}, two patches of "
            f"model.patch_size = {config.patch_size}"
        )
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(tiny_config(config, image_size, len(tokenizer), ids))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def tiny_config(config: ModelConfig, image_size: int, vocabulary: int, ids: Mapping[str, int]) -> PreTrainedConfig:
    """The configuration of the small model.

    Args:
        config: which family, and sizes.
        image_size: side of the images, for which Qwen3-VL learns positions.
        vocabulary: size of the tokenizer.
        ids: of the special tokens; the family's own where one is missing.
    """
    vision = _vision(config, image_size)
    if config.family == "qwen3_vl":
        # Features of as many layers as the language model can take, after the first of the tower.
        vision["deepstack_visual_indexes"] = list(range(min(config.vision_layers, config.layers) - 1)) or [0]
    known = {name: ids[token] for name, token in _TOKEN_IDS.items() if token in ids}
    text = _text(config, vocabulary) | {name: ids[token] for name, token in _TEXT_IDS.items() if token in ids}
    made: PreTrainedConfig = _FAMILIES[config.family][0](
        text_config=text, vision_config=vision, tie_word_embeddings=True, **known
    )
    return made


def _text(config: ModelConfig, vocabulary: int) -> dict[str, Any]:
    heads = config.hidden_size // _HEAD
    # mRoPE splits half of the head's dimensions into time, height and width.
    half = _HEAD // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    if config.family == "qwen3_vl":
        rope["mrope_interleaved"] = True
    text = {
        "vocab_size": vocabulary,
        "hidden_size": config.hidden_size,
        "intermediate_size": 3 * config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2 if heads % 2 == 0 else heads,
        "max_position_embeddings": 4096,
        # The published 0.02 suits widths of thousands; at 192 it keeps attention flat for long.
        "initializer_range": INITIALIZER_RANGE,
        "rope_parameters": rope,
        "tie_word_embeddings": True,
    }
    return text | ({"head_dim": _HEAD} if config.family == "qwen3_vl" else {"max_window_layers": config.layers})


def _vision(config: ModelConfig, image_size: int) -> dict[str, Any]:
    width = config.vision_hidden_size
    shared = {
        "depth": config.vision_layers,
        "num_heads": width // _HEAD,
        "patch_size": config.patch_size,
        "initializer_range": INITIALIZER_RANGE,
    }
    if config.family == "qwen2_vl":
        return shared | {"embed_dim": width, "hidden_size": config.hidden_size, "mlp_ratio": 3}
    named = shared | {"hidden_size": width, "out_hidden_size": config.hidden_size, "intermediate_size": 3 * width}
    if config.family == "qwen2_5_vl":
        # The last layer attends to the whole image, those before it to windows of four by four patches.
        window = {"window_size": 4 * config.patch_size, "fullatt_block_indexes": [config.vision_layers - 1]}
        return named | window
    return named | {"num_position_embeddings": (image_size // config.patch_size) ** 2}
