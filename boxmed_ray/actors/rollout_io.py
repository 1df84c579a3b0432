"""What goes into a vLLM engine and what comes out. Light: imports neither vLLM nor Ray.

What lives here: one prompt, one output, the engine's options, its errors. What does not: the engine
(vllm_engine.py) and the records of training (types.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image


class OutOfServiceError(RuntimeError):
    """The engine holds no whole version of the weights, or is paused for one, and refuses to generate."""


class EngineCrashedError(RuntimeError):
    """The engine failed in the middle of a step: it is of no more use, and what it ran is lost."""


@dataclass(frozen=True, slots=True)
class EnginePrompt:
    """One prompt.

    Attributes:
        text: with exactly one image placeholder, not expanded, if there is an image; with none otherwise.
        image: RGB or grey.
    """

    text: str
    image: Image.Image | None = None


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """One response.

    Attributes:
        token_ids: the response, with its end-of-turn token when it finished.
        logprobs: of each token as sampled: after temperature and the ban on placeholders (greedy: temperature 1).
        finish_reason: "stop" or "length".
        text: decoded, without the end-of-turn token, other special tokens visible.
        prompt_tokens: of the prompt that it answers, image tokens included.
        weight_version: learner updates behind the weights that sampled it, from first token to last.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]
    text: str
    prompt_tokens: int
    weight_version: int


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is set up.

    Attributes:
        seed: of sampling where a call gives none.
        max_model_len: tokens of image, prompt and response.
        max_sequences: sequences at once; more wait.
        kv_cache_gb: memory of the key-value cache (on a GPU: of that GPU).
        threads: CPU threads.
        dtype: of the weights.
        lora_rank: largest rank of adapters; 0 serves none. An engine with adapters takes pushes of adapters only.
        gpus: 0 is the CPU backend.
        tensor_parallel: GPUs that share one engine.
        extra: further arguments of ``vllm.LLM``, which win.
    """

    seed: int = 0
    max_model_len: int = 512
    max_sequences: int = 128
    kv_cache_gb: float = 0.5
    threads: int = 1
    dtype: str = "float32"
    lora_rank: int = 0
    gpus: float = 0.0
    tensor_parallel: int = 1
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class EngineStats:
    """Totals since the engine started."""

    prompts: int = 0
    samples: int = 0
    tokens: int = 0
    generate_s: float = 0.0
    encode_s: float = 0.0
    pushes: int = 0


def adapter_key(path: Path) -> str:
    """Identity of an adapter on disk: a rewritten adapter is another one."""
    stamp = max((file.stat().st_mtime_ns for file in path.iterdir()), default=0)
    return f"{path.resolve()}@{stamp}"
