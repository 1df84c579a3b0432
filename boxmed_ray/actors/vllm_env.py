"""The process environment a vLLM engine inside this process needs. Light: imports neither torch nor vLLM.

What lives here: environment variables and what must be set before or after ``import vllm``. What does
not: engine arguments (vllm_engine.py).
"""

from __future__ import annotations

import logging
import os

_FIXED = {
    # The engine core in this process: 5 s to start instead of 65 s, and weights are loaded without crossing processes.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The ban on vision placeholders is a logits processor of the first model runner.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
_DEFAULTS = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare(threads: int, gpus: float = 0.0) -> None:
    """Set up this process for one engine. Call it before anything imports vLLM.

    Args:
        threads: CPU threads of the engine. Two threads spinning on one busy core slow a step tenfold.
        gpus: GPUs of the engine; 0 is the CPU backend.
    """
    if threads < 1:
        raise ValueError(f"threads = {threads}: must be at least 1")
    os.environ.update(_FIXED)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would win over the size that the options give
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if not gpus:
        # torch.compile would build one helper of the sampler with a C++ compiler: 35 s at the first call, and a
        # machine without a compiler would fail.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    quiet_logs()


def quiet_logs() -> None:
    """Silence what vLLM says at every start and every push on purpose, and what it must not write down."""
    # After an error vLLM dumps whole requests, prompts and pixels, into the log: patients' data.
    _mute("vllm.logging_utils.dump_input", logging.CRITICAL + 1)
    # "Failed to load weights" for a tied output head, at every push: weight_engine.py refreshes it.
    _mute("vllm.model_executor.model_loader.reload.layerwise", logging.ERROR)
    # Threads are set before the engine starts; each of vLLM's attempts to set them again is a warning.
    _mute("vllm.v1.worker.cpu_worker", logging.ERROR)


def _mute(name: str, below: int) -> None:
    # A filter and not a level: vLLM configures logging again when its engine starts, which resets levels.
    logger = logging.getLogger(name)
    if not any(isinstance(present, _Threshold) for present in logger.filters):
        logger.addFilter(_Threshold(below))


class _Threshold(logging.Filter):
    def __init__(self, below: int) -> None:
        super().__init__()
        self._below = below

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self._below
