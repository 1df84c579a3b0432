"""A push is right when vLLM then does what the learner does, with image and without, token by token."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from boxmed_ray.actors.rollout_io import EnginePrompt, OutOfServiceError
from boxmed_ray.actors.weight_fleet import LocalClient, Phase, PushError
from tests.actors.conftest import Served, random_image
from tests.actors.pushing import Pusher, through_shm

pytestmark = pytest.mark.vllm
IMAGES = [random_image(seed) for seed in (11, 12)]
TEXT_ONLY = "<|im_start|>user\nnodule<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(params=["tied", "untied"])
def served(request: pytest.FixtureRequest) -> Served:
    return request.getfixturevalue(request.param)


def pusher(served: Served, directory: Path | None = None, *clients: Any, **options: Any) -> Pusher:
    from boxmed_ray.actors.weight_source import ModuleWeights

    return through_shm(ModuleWeights(served.learner), clients or (LocalClient(served.engine),), directory, **options)


def questions(served: Served) -> Iterator[EnginePrompt]:
    for image in IMAGES:
        yield EnginePrompt(served.text(), image)
    yield EnginePrompt(TEXT_ONLY)


def assert_same_policy(served: Served, tokens: int = 12) -> None:
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


def test_after_every_push_vllm_is_the_learner(served: Served) -> None:
    push = pusher(served)
    for version in (1, 2, 3):
        served.perturb(seed=version)
        report = push.send_weights(version)
        assert served.engine.weight_version == report.version == version
        assert report.workers == ["local"]
        assert set(report.phases_s) >= {"pause", "start", "update", "finish", "resume"}
        assert_same_policy(served)


def test_an_engine_of_the_trainer_that_ends_leaves_nothing_in_shared_memory(tied: Served, tmp_path: Path) -> None:
    push = pusher(tied, tmp_path)
    push.send_weights(4)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    push.engine.shutdown()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_written_over_does_not_change_an_engine_that_has_loaded_it(tied: Served, tmp_path: Path) -> None:
    tied.perturb(seed=20)
    pusher(tied, tmp_path).send_weights(20)
    (path,) = tmp_path.iterdir()
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same_policy(tied)


def test_a_damaged_file_is_told_by_its_digest_and_the_engine_is_out_of_service(
    tied: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxmed_ray.actors.weight_file import WeightFile

    write = WeightFile.write

    def damage(self: WeightFile, version: int, buckets: Any) -> None:
        write(self, version, buckets)
        assert self._memory is not None
        self._memory[-3] ^= 1  # one bit of the last parameter

    push = pusher(tied, checked=True)
    push.send_weights(25)
    assert_same_policy(tied)
    monkeypatch.setattr(WeightFile, "write", damage)
    with pytest.raises(PushError, match=r"local in phase update: .*version 26 is damaged: its digest is"):
        push.send_weights(26)
    with pytest.raises(OutOfServiceError, match="version 26 is damaged"):
        tied.engine.generate([EnginePrompt(TEXT_ONLY)], max_new_tokens=2)
    monkeypatch.setattr(WeightFile, "write", write)
    push.send_weights(27)
    assert_same_policy(tied)


def _lack(name: str) -> Any:
    """A source that leaves one parameter out."""
    from boxmed_ray.actors.weight_source import ModuleWeights

    class Lacking(ModuleWeights):
        def _tensors(self) -> Any:
            return (tensor for tensor in super()._tensors() if tensor.name != name)

    return Lacking


def test_a_push_that_lacks_a_parameter_is_refused_and_the_engine_waits_for_a_whole_one(tied: Served) -> None:
    name = "model.language_model.layers.0.self_attn.k_proj.weight"
    assert name in dict(tied.learner.named_parameters())
    with pytest.raises(PushError, match=r"local in phase update.*lacks .*layers\.0\.self_attn\.k_proj\.weight"):
        through_shm(_lack(name)(tied.learner), [LocalClient(tied.engine)]).send_weights(30)
    with pytest.raises(OutOfServiceError, match="push a whole version"):
        tied.engine.generate([EnginePrompt(TEXT_ONLY)], max_new_tokens=2)
    tied.perturb(seed=31)
    pusher(tied).send_weights(31)
    assert_same_policy(tied)


def test_a_push_that_breaks_off_half_way_leaves_no_half_version_in_service(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxmed_ray.actors.weight_file import OpenWeights

    whole = OpenWeights.__iter__

    def half(self: OpenWeights) -> Iterator[Any]:
        for index, pair in enumerate(whole(self)):
            if index == 17:
                raise OSError("the host went away")
            yield pair

    served.perturb(seed=40)
    monkeypatch.setattr(OpenWeights, "__iter__", half)
    with pytest.raises(PushError, match="phase update: OSError: the host went away"):
        pusher(served).send_weights(40)
    with pytest.raises(OutOfServiceError, match="the host went away"):
        served.engine.generate([EnginePrompt(TEXT_ONLY)], max_new_tokens=2)
    monkeypatch.setattr(OpenWeights, "__iter__", whole)
    pusher(served).send_weights(41)
    assert_same_policy(served)


def test_finishing_without_an_update_is_refused(tied: Served) -> None:
    tied.engine.weight_phase(Phase.START, {})
    with pytest.raises(RuntimeError, match="before a version was received"):
        tied.engine.weight_phase(Phase.FINISH, {"version": 50})
    pusher(tied).send_weights(51)
    assert_same_policy(tied)


def test_a_file_of_another_version_is_refused(tied: Served, tmp_path: Path) -> None:
    push = pusher(tied, tmp_path)
    push.send_weights(60)
    (path,) = tmp_path.iterdir()
    tied.engine.weight_phase(Phase.START, {})
    with pytest.raises(RuntimeError, match="holds version 60; version 61 was announced"):
        tied.engine.weight_phase(Phase.UPDATE, {"path": str(path), "version": 61})
    push.send_weights(62)
    assert tied.engine.weight_version == 62


def test_a_paused_engine_refuses_until_it_is_resumed(tied: Served) -> None:
    tied.engine.weight_phase(Phase.PAUSE, {})
    with pytest.raises(OutOfServiceError, match="paused"):
        tied.engine.generate([EnginePrompt(TEXT_ONLY)], max_new_tokens=2)
    tied.engine.weight_phase(Phase.RESUME, {})
    assert tied.engine.generate([EnginePrompt(TEXT_ONLY)], max_new_tokens=2)


class _Hangs:
    """A worker that stops answering in one phase."""

    def __init__(self, phase: Phase) -> None:
        self._phase, self.released = phase, threading.Event()

    def weight_phase(self, phase: str, payload: Any) -> None:
        if phase == self._phase:
            self.released.wait(20)


def test_a_straggler_is_named_and_the_others_have_the_version(tied: Served) -> None:
    hanging = _Hangs(Phase.START)
    tied.perturb(seed=70)
    push = pusher(tied, None, LocalClient(tied.engine, "quick"), LocalClient(hanging, "slow"), timeout_s=3)
    started = time.monotonic()
    with pytest.raises(PushError, match=r"slow in phase start: no answer within 3 s") as caught:
        push.send_weights(70)
    hanging.released.set()
    assert time.monotonic() - started < 12
    assert caught.value.report.workers == ["quick"]
    assert [failure.worker for failure in caught.value.report.failures] == ["slow"]
    assert_same_policy(tied)
