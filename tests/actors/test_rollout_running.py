"""Groups that run beside each other in one engine: exact log-probabilities, and one version each across a push."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from boxmed_ray.actors.engine_loop import EngineLoop
from boxmed_ray.actors.rollout_io import EngineOutput, EnginePrompt, OutOfServiceError
from boxmed_ray.actors.weight_fleet import LocalClient, Phase
from tests.actors.conftest import Served, random_image
from tests.actors.pushing import through_shm

pytestmark = pytest.mark.vllm
IMAGES = [random_image(seed) for seed in range(70, 78)]


class Running:
    """An engine in its loop, reached as a rollout worker reaches it."""

    def __init__(self, served: Served) -> None:
        from boxmed_ray.actors.weight_source import ModuleWeights

        self.served, self.loop = served, EngineLoop(served.engine)
        self._push = through_shm(ModuleWeights(served.learner), (LocalClient(self),), None)

    def weight_phase(self, phase: str, payload: Mapping[str, Any]) -> None:
        kind = Phase(phase)
        self.loop.phase(kind, partial(self.served.engine.weight_phase, kind, payload)).result(60)

    def push(self) -> None:
        self._push.send_weights(self.served.engine.weight_version + 1)

    def ask(self, image: Any, n: int = 3, tokens: int = 40) -> Future[list[EngineOutput]]:
        prompt = EnginePrompt(self.served.text(), image)
        return self.loop.group(partial(self.served.engine.begin, prompt, n=n, temperature=0.9, max_new_tokens=tokens))


@pytest.fixture(scope="module")
def running(tied: Served) -> Running:
    each = Running(tied)
    each.push()
    return each


def assert_sampled_by(served: Served, image: Any, outputs: list[EngineOutput]) -> None:
    for output in outputs:
        expected = served.learner_logprobs(served.text(), image, output.token_ids, temperature=0.9)
        assert torch.tensor(output.logprobs) == pytest.approx(expected, abs=1e-4)


def test_groups_that_run_together_have_the_log_probabilities_of_the_learner(running: Running) -> None:
    asked = [running.ask(image) for image in IMAGES]
    for image, future in zip(IMAGES, asked, strict=True):
        outputs = future.result(60)
        assert len({tuple(output.token_ids) for output in outputs}) == 3
        assert_sampled_by(running.served, image, outputs)


def test_a_push_amid_running_groups_leaves_each_of_one_version(running: Running) -> None:
    served, version = running.served, running.served.engine.weight_version
    before = replace(served, learner=copy.deepcopy(served.learner))
    first = [running.ask(image) for image in IMAGES]
    served.perturb(seed=31)
    assert not any(future.done() for future in first)
    running.push()
    assert all(future.done() for future in first)  # the push waited for them
    second = [running.ask(image, n=1) for image in IMAGES]
    for image, old, new in zip(IMAGES, first, second, strict=True):
        assert {output.weight_version for output in old.result(60)} == {version}
        assert {output.weight_version for output in new.result(60)} == {version + 1}
        assert_sampled_by(before, image, old.result())
        assert_sampled_by(served, image, new.result())


def test_a_group_that_comes_amid_a_broken_push_is_refused(running: Running) -> None:
    running.weight_phase("pause", {})
    running.weight_phase("start", {})
    with pytest.raises(OutOfServiceError, match="begun and not finished"):
        running.ask(IMAGES[0]).result(60)
    running.push()
    assert len(running.ask(IMAGES[0]).result(60)) == 3
