"""Building the serving engine, and what is counted in it.

What lives here: vLLM's settings for serving, and the counters. What does not: the thread that steps it (engine.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve.artifacts import Artifacts
from serve.questions import Completion

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine

_CPU_BLOCK = 32
"""Tokens of a key-value block on the CPU, its smallest: the questions about an image share whole blocks only."""

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks for which vLLM makes room; an adapter takes the next one up."""


@dataclass(slots=True)
class Counters:
    """Totals since the engine was loaded; written by its thread alone.

    Attributes:
        questions: answered.
        prompt_tokens: of their prompts, those of images among them.
        cached_tokens: of these, found in the prefix cache.
        tokens: of their answers.
        encoded_images: images that went through the vision tower, as the engine's encoder cache booked them.
    """

    questions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    encoded_images: int = 0

    def add(self, completion: Completion) -> None:
        """Count an answer."""
        self.questions += 1
        self.prompt_tokens += completion.prompt_tokens
        self.cached_tokens += completion.cached_tokens
        self.tokens += completion.tokens


def count_encoded_images(engine: Any, counters: Counters) -> None:
    """Count what the encoder cache of ``engine`` makes room for: each is one pass of the vision tower."""
    manager = engine.engine_core.engine_core.scheduler.encoder_cache_manager
    allocate = manager.allocate

    def counted(request: Any, input_id: int) -> None:
        counters.encoded_images += 1
        allocate(request, input_id)

    manager.allocate = counted


def build(artifacts: Artifacts, banned_ids: list[int]) -> LLMEngine:
    """The engine of training (boxmed_ray.actors.vllm_engine) but for what serving needs differently:
    an adapter instead of weight pushes, no log-probabilities, and vLLM's own image processing, which keeps
    what it made of an image between the questions about it.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from boxmed_ray.actors.banned_tokens import OPTION, BannedTokens

    config = artifacts.config
    rank: Any = next(rank for rank in _LORA_RANKS if rank >= max(adapter.rank for adapter in artifacts.adapters))
    device: dict[str, Any] = {}
    if not config.resources.gpus_per_rollout:
        device = {"distributed_executor_backend": "uni", "enforce_eager": True, "block_size": _CPU_BLOCK}
    args = EngineArgs(
        model=str(artifacts.backbone),
        dtype=config.model.dtype,
        seed=config.seed,
        max_model_len=config.model.max_length,
        max_num_seqs=config.resources.max_sequences,
        max_num_batched_tokens=max(4096, config.model.max_length),
        kv_cache_memory_bytes=int(config.resources.kv_cache_gb * 2**30),
        limit_mm_per_prompt={"image": 1, "video": 0},
        mm_device_do_normalize=False,  # pixels as the learner made them
        enable_lora=True,
        max_loras=len(artifacts.adapters),
        max_cpu_loras=2 * len(artifacts.adapters),  # while versions change, both are there
        max_lora_rank=rank,
        logits_processors=[BannedTokens],
        additional_config={OPTION: banned_ids},
        disable_log_stats=True,
        **device,
    )
    return LLMEngine.from_engine_args(args)
