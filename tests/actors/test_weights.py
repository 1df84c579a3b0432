"""A push is right when vLLM then does what the learner does, with image and without, token by token."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxmed_ray.actors.rollout_io import EnginePrompt, OutOfServiceError
from boxmed_ray.actors.weight_fleet import LocalClient, Phase, PushError
from tests.actors.conftest import Served
from tests.actors.pushing import TEXT_ONLY, Pusher, assert_same_policy, through_shm

pytestmark = pytest.mark.vllm


@pytest.fixture(params=["tied", "untied"])
def served(request: pytest.FixtureRequest) -> Served:
    return request.getfixturevalue(request.param)


def pusher(served: Served, directory: Path | None = None, *clients: Any, **options: Any) -> Pusher:
    from boxmed_ray.actors.weight_source import ModuleWeights

    return through_shm(ModuleWeights(served.learner), clients or (LocalClient(served.engine),), directory, **options)


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


@pytest.mark.ray
def test_through_the_object_store_vllm_is_the_learner_too(served: Served, ray_cluster: None) -> None:
    from boxmed_ray.actors.weight_source import ModuleWeights
    from boxmed_ray.actors.weights import StoreInitInfo

    source = ModuleWeights(served.learner, bucket_bytes=1 << 16)  # many chunks
    push = Pusher(source, [LocalClient(served.engine)], StoreInitInfo(rank=0, checked=True))
    for version in (43, 44):
        served.perturb(seed=version)
        push.send_weights(version)
        assert served.engine.weight_version == version
        assert_same_policy(served)


@pytest.mark.parametrize(
    ("phase", "broken"),
    [("start", "initialize_layerwise_reload"), ("finish", "finalize_layerwise_reload"), ("update", "checked")],
)
def test_a_phase_that_fails_leaves_the_engine_out_of_service_until_a_whole_version_is_in(
    tied: Served, monkeypatch: pytest.MonkeyPatch, phase: str, broken: str
) -> None:
    from boxmed_ray.actors import weight_engine

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no memory")

    tied.perturb(seed=45)
    push = pusher(tied)
    with monkeypatch.context() as patch:
        patch.setattr(weight_engine, broken, fail)
        with pytest.raises(PushError, match=f"local in phase {phase}: OSError: no memory"):
            push.send_weights(45)
    with pytest.raises(OutOfServiceError, match="push a whole version"):
        tied.engine.generate([EnginePrompt(TEXT_ONLY)], max_new_tokens=2)
    push.send_weights(46)
    assert_same_policy(tied)


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
