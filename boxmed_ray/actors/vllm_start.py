"""The arguments a vLLM engine is started with, and why each.

What lives here: from our options to vLLM's. What does not: the process environment (vllm_env.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from boxmed_ray.actors.rollout_io import EngineOptions

_BLOCK = 32
"""Tokens of a key-value block on the CPU, its smallest: the prompts of a group share whole blocks only."""

_FREE_AT_START = 0.2

_LORA_RANKS = (8, 16, 32, 64, 128, 256)
"""Largest ranks that vLLM can be started for, up to the largest that the config takes."""


def start(folder: Path, options: EngineOptions, banned_ids: list[int]) -> Any:
    """Start vLLM in this process; the environment must be prepared (vllm_env.py).

    Raises:
        ValueError: (vLLM) the options do not fit the model or the memory.
    """
    from vllm import LLM

    from boxmed_ray.actors import weight_engine
    from boxmed_ray.actors.banned_tokens import OPTION, BannedTokens

    arguments: dict[str, Any] = {
        "dtype": options.dtype,
        "seed": options.seed,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_sequences,
        "max_num_batched_tokens": max(4096, options.max_model_len),
        "kv_cache_memory_bytes": int(options.kv_cache_gb * 2**30),
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_processor_cache_gb": 0,  # prompts arrive processed
        # By default vLLM's vision tower normalises pixels itself, and ours, normalised, would be in silence once more.
        "mm_device_do_normalize": False,
        "skip_mm_profiling": True,
        "disable_log_stats": True,
        "logprobs_mode": "processed_logprobs",  # after the ban and the temperature, as sampled
        "logits_processors": [BannedTokens],
        "additional_config": {OPTION: banned_ids},
        "weight_transfer_config": {"backend": weight_engine.BACKEND},
        "worker_extension_cls": weight_engine.EXTENSION,
    }
    if options.lora_rank:
        largest = min(rank for rank in _LORA_RANKS if rank >= options.lora_rank)
        arguments |= {"enable_lora": True, "max_lora_rank": largest, "max_loras": 1}
    if options.gpus:
        # The cache's size is given, so that the share only says what must be free at the start: a neighbour on the GPU
        # (resources.colocated) may hold most of it. Several GPUs are those of this actor, not others of the cluster.
        executor = "mp" if options.tensor_parallel > 1 else "uni"
        arguments |= {"tensor_parallel_size": options.tensor_parallel, "distributed_executor_backend": executor}
        arguments |= {"gpu_memory_utilization": _FREE_AT_START}
    else:
        torch.set_num_threads(options.threads)
        arguments |= {"distributed_executor_backend": "uni", "enforce_eager": True, "block_size": _BLOCK}
    return LLM(str(folder), **(arguments | options.extra))
