"""The rollout worker: a vLLM engine behind Ray, from prompts to groups.

What lives here: what travels over Ray, in and out. What does not: generation (vllm_engine.py), who may use
the engine when (engine_loop.py), resources and threads (whoever makes the actor gives it those, and a concurrency
group ``weights`` with a thread for each phase). Methods may be called from several threads at once.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image

from boxmed_ray.actors import vllm_env
from boxmed_ray.actors.engine_loop import EngineLoop
from boxmed_ray.actors.rollout_io import EngineOptions, EngineOutput, EnginePrompt
from boxmed_ray.actors.types import Group, Prompt, Rollout
from boxmed_ray.actors.weight_fleet import Phase
from boxmed_ray.data.images import load_square

_DECODED_IMAGES = 256


class RolloutActor:
    """Samples groups. Importing vLLM and starting the engine happen here, in the actor's process.

    Args:
        model_folder: the policy's folder; its weights are version 0.
        options: of the engine.
        image_size: side of the square the model sees.
        image_cache: folder of resized images (data/images.py), or None.
    """

    def __init__(
        self, model_folder: str, options: EngineOptions, image_size: int, image_cache: str | None = None
    ) -> None:
        vllm_env.prepare(options.threads, options.gpus)
        from boxmed_ray.actors.vllm_engine import RolloutEngine
        from boxmed_ray.model.policy import load_processor

        self._processor = load_processor(model_folder)
        self._engine = RolloutEngine(model_folder, options)
        self._loop = EngineLoop(self._engine)
        cache = None if image_cache is None else Path(image_cache)
        self._image = functools.lru_cache(_DECODED_IMAGES)(functools.partial(_open, side=image_size, cache=cache))

    def ready(self) -> bool:
        """Answers once the engine is up."""
        return True

    def generate_groups(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        seed: int = 0,
        greedy: bool = False,
        lora_path: str | None = None,
    ) -> list[Group]:
        """Sample ``n`` responses to each prompt, with nothing else in the engine.

        Args:
            prompts: one batch; what is sampled depends on its prompts and ``seed``, not on which worker does it.
            n: responses per prompt; 1 when greedy.
            temperature: of sampling.
            max_new_tokens: cap of a response.
            seed: of the step.
            greedy: the likeliest token at every step.
            lora_path: PEFT adapter to apply.

        Raises:
            OutOfServiceError: a push did not complete.
            EngineCrashedError: the engine is to be replaced.
            DataError: an image cannot be read.
        """

        def run() -> list[Group]:
            outputs = self._engine.generate(
                [self._engine_prompt(prompt) for prompt in prompts],
                n=n,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                seed=_batch_seed(seed, prompts),
                greedy=greedy,
                lora_path=lora_path,
            )
            return [_group(prompt, responses) for prompt, responses in zip(prompts, outputs, strict=True)]

        groups: list[Group] = self._loop.call(run).result()
        return groups

    def generate_group(self, prompt: Prompt, *, n: int, temperature: float, max_new_tokens: int) -> Group:
        """Sample ``n`` responses to one prompt beside whatever else the engine runs.

        A push that comes meanwhile waits until the group has ended: it is sampled from one version.

        Args:
            prompt: to answer.
            n: responses.
            temperature: of sampling.
            max_new_tokens: cap of a response.

        Raises:
            OutOfServiceError, EngineCrashedError, DataError: as ``generate_groups``.
        """
        text_and_image = self._engine_prompt(prompt)  # here, so that the engine need not wait for a disk
        asked = self._loop.group(
            lambda: self._engine.begin(text_and_image, n=n, temperature=temperature, max_new_tokens=max_new_tokens)
        )
        return _group(prompt, asked.result())

    @ray.method(concurrency_group="weights")
    def weight_phase(self, phase: str, payload: Mapping[str, Any]) -> None:
        """Carry out one phase of a weight push (weight_fleet.py)."""
        kind = Phase(phase)
        self._loop.phase(kind, lambda: self._engine.weight_phase(kind, payload)).result()

    def stats(self) -> dict[str, float]:
        """Totals since the start: prompts, samples, tokens, seconds, pushes; and the weight version."""
        return {**asdict(self._engine.stats), "weight_version": self._engine.weight_version}

    def shutdown(self) -> None:
        """Release the engine."""
        self._engine.shutdown()

    def _engine_prompt(self, prompt: Prompt) -> EnginePrompt:
        from boxmed_ray.model.inputs import prompt_text

        return EnginePrompt(prompt_text(self._processor, prompt.task, prompt.phrase), self._image(prompt.image))


def _open(path: str, side: int, cache: Path | None) -> Image.Image:
    return load_square(Path(path), side, cache)


def _group(prompt: Prompt, responses: Sequence[EngineOutput]) -> Group:
    return Group(prompt, tuple(_rollout(response) for response in responses), responses[0].prompt_tokens)


def _rollout(output: EngineOutput) -> Rollout:
    return Rollout(
        token_ids=np.array(output.token_ids, dtype=np.int64),
        logprobs=np.array(output.logprobs, dtype=np.float32),
        finish_reason=output.finish_reason,
        weight_version=output.weight_version,
        text=output.text,
    )


def _batch_seed(seed: int, prompts: Sequence[Prompt]) -> int:
    """A seed of its own for every batch of a step: with one seed for all, batches would share their noise."""
    words = "\0".join([str(seed), *(prompt.id for prompt in prompts)])
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest()) >> 1
