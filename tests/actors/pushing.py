"""Pushes to an engine of this process, without a driver between; and what must hold after each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from boxmed_ray.actors.rollout_io import EnginePrompt
from boxmed_ray.actors.weight_fleet import PushReport, WorkerClient, WorkerFleet
from tests.actors.conftest import Served, random_image

IMAGES = [random_image(seed) for seed in (11, 12)]
TEXT_ONLY = "<|im_start|>user\nnodule<|im_end|>\n<|im_start|>assistant\n"


class Pusher:
    """Every ``send_weights`` is a whole push to ``clients``."""

    def __init__(self, source: Any, clients: Sequence[WorkerClient], info: Any, timeout_s: float = 60) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        import boxmed_ray.actors.weights  # noqa: F401 - registers the engines

        self.fleet = WorkerFleet(clients, timeout_s)
        self.fleet.begin(0)
        self.engine: Any = WeightTransferTrainerFactory.trainer_init(info, client=self.fleet, source=source)
        self.fleet.end()

    def send_weights(self, version: int, clients: Sequence[WorkerClient] | None = None) -> PushReport | None:
        """Push; on rank 0 the report."""
        self.fleet.begin(version, clients)
        sent = self.engine.send_weights(version)
        return None if sent is None else self.fleet.end()


def through_shm(
    source: Any, clients: Sequence[WorkerClient], directory: Path | None = None, *, rank: int = 0, **options: Any
) -> Pusher:
    """Through a file in shared memory, or in ``directory``."""
    from boxmed_ray.actors.weights import SHARED_MEMORY, ShmInitInfo

    checked = options.pop("checked", False)
    info = ShmInitInfo(rank=rank, directory=directory or SHARED_MEMORY, checked=checked)
    return Pusher(source, clients, info, **options)


def questions(served: Served) -> Iterator[EnginePrompt]:
    """Two about images, one without."""
    for image in IMAGES:
        yield EnginePrompt(served.text(), image)
    yield EnginePrompt(TEXT_ONLY)


def assert_same_policy(served: Served, tokens: int = 12) -> None:
    """Greedy tokens equal, log-probabilities of greedy and sampled tokens within 1e-4, with images and without."""
    prompts = list(questions(served))
    for prompt, (output,) in zip(
        prompts, served.engine.generate(prompts, greedy=True, max_new_tokens=tokens), strict=True
    ):
        assert output.token_ids == served.learner_greedy(prompt.text, prompt.image, tokens)
        expected = served.learner_logprobs(prompt.text, prompt.image, output.token_ids)
        assert torch.tensor(output.logprobs) == pytest.approx(expected, abs=1e-4)
    sampled = served.engine.generate(prompts, n=3, temperature=0.7, max_new_tokens=tokens, seed=5)
    for prompt, outputs in zip(prompts, sampled, strict=True):
        for output in outputs:
            expected = served.learner_logprobs(prompt.text, prompt.image, output.token_ids, temperature=0.7)
            assert torch.tensor(output.logprobs) == pytest.approx(expected, abs=1e-4)
