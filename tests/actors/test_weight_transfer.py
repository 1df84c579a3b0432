"""vLLM's own NCCL engines on both sides, all of them but the wire: a queue stands for it, as there is no GPU here."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from boxmed_ray.actors.rollout_io import EnginePrompt, OutOfServiceError
from boxmed_ray.actors.weight_fleet import LocalClient, PushError
from tests.actors.conftest import Served
from tests.actors.pushing import TEXT_ONLY, assert_same_policy, through_shm

pytestmark = pytest.mark.vllm
Wire = queue.SimpleQueue[list[tuple[str, torch.Tensor]]]


class Group:
    """In place of an NCCL communicator."""

    def __init__(self) -> None:
        self.left = False

    def destroy(self) -> None:
        self.left = True


class Joined:
    """What both sides were told when they met."""

    def __init__(self) -> None:
        self.trainer: list[Any] = []
        self.workers: list[Any] = []
        self.groups: list[Group] = []

    def group(self) -> Group:
        self.groups.append(Group())
        return self.groups[-1]


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Joined:
    from vllm.distributed.weight_transfer import nccl_engine

    wire, met = Wire(), Joined()

    def produce(iterator: Iterable[Any], **_: Any) -> None:
        wire.put([(name, tensor.clone()) for name, tensor in iterator])

    def consume(iterator: Iterable[Any], post_unpack_func: Callable[[Any], Any], **_: Any) -> None:
        sent = wire.get(timeout=30)
        assert [(name, (list(tensor.shape), tensor.dtype)) for name, tensor in sent] == list(iterator)
        post_unpack_func(sent)

    def join_trainer(info: Any) -> Group:
        met.trainer.append(info)
        return met.group()

    def join_worker(info: Any, _: Any) -> Group:
        met.workers.append(info)
        return met.group()

    monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_producer", produce)
    monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_consumer", consume)
    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", join_trainer)
    monkeypatch.setattr(nccl_engine, "worker_init_process_group", join_worker)
    return met


def transfer(served: Served, rank: int = 0) -> Any:
    from boxmed_ray.actors.weight_source import ModuleWeights
    from boxmed_ray.actors.weight_transfer import Transfer

    return Transfer("nccl", ModuleWeights(served.learner, bucket_bytes=1 << 16), rank, 30, lambda: ("127.0.0.1", 1234))


def test_through_vllms_nccl_engines_vllm_is_the_learner_and_shared_memory_fits_again(
    untied: Served, joined: Joined
) -> None:
    through, worker = transfer(untied), ("key", LocalClient(untied.engine))
    for version in (1, 2):
        untied.perturb(seed=100 + version)
        report = through.send(version, [worker])
        assert (report.version, report.workers) == (version, ["local"])
        assert untied.engine.weight_version == version
        assert_same_policy(untied)
    assert len(joined.trainer) == len(joined.workers) == 1  # once for both
    untied.perturb(seed=103)
    from boxmed_ray.actors.weight_source import ModuleWeights

    through_shm(ModuleWeights(untied.learner), [LocalClient(untied.engine)]).send_weights(3)
    assert_same_policy(untied)
    through.shutdown()
    assert all(group.left for group in joined.groups)


class Receiver:
    """Notes what it is told, and fails in one phase."""

    def __init__(self, fails_in: str = "") -> None:
        self.fails_in = fails_in
        self.told: list[tuple[str, Any]] = []

    def weight_phase(self, phase: str, payload: Any) -> None:
        self.told.append((phase, dict(payload)))
        if phase == self.fails_in:
            raise OSError("no such device")


def test_workers_are_numbered_behind_the_learner_and_joined_anew_when_they_are_others(
    untied: Served, joined: Joined
) -> None:
    through, receivers = transfer(untied), [Receiver(), Receiver(), Receiver()]
    workers = [(str(index), LocalClient(receiver, f"w{index}")) for index, receiver in enumerate(receivers)]
    through.send(1, workers[:2])
    through.send(2, workers[:2])
    through.send(3, workers[1:])
    assert [info.world_size for info in joined.trainer] == [3, 3]
    assert [phase for phase, _ in receivers[1].told].count("connect") == 2
    connects = [[told for phase, told in receiver.told if phase == "connect"] for receiver in receivers]
    numbers = [[told["rank_offset"] for told in one] for one in connects]
    assert numbers == [[1], [2, 1], [2]]
    assert connects[0][0]["backend"] == "nccl"
    assert connects[0][0]["world_size"] == 3
    assert [told["version"] for phase, told in receivers[1].told if phase == "finish"] == [1, 2, 3]
    assert joined.groups[0].left


@pytest.mark.parametrize("phase", ["connect", "start"])
def test_a_worker_that_fails_before_the_transfer_ends_it_for_all_and_the_other_ranks_are_not_left_gathering(
    untied: Served, joined: Joined, phase: str
) -> None:
    through, good, bad = transfer(untied), Receiver(), Receiver(phase)
    drawn = []
    buckets = through._source.buckets
    through._source.buckets = lambda: (drawn.append(bucket) or bucket for bucket in buckets())
    with pytest.raises(PushError, match=f"bad in phase {phase}: OSError: no such device") as caught:
        through.send(1, [("good", LocalClient(good, "good")), ("bad", LocalClient(bad, "bad"))])
    report = caught.value.report
    assert report.workers == []
    assert {failure.worker for failure in report.failures} == {"good", "bad"}
    assert "update" not in [phase for phase, _ in good.told]
    assert sum(len(bucket) for bucket in drawn) == len(list(untied.learner.parameters()))


def test_ranks_behind_the_first_gather_and_call_nobody(untied: Served, joined: Joined) -> None:
    assert transfer(untied, rank=1).send(1, []) is None
    assert joined.trainer == []


def test_a_version_that_breaks_off_leaves_the_engine_out_of_service(
    untied: Served, joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.distributed.weight_transfer import nccl_engine

    def break_off(**_: Any) -> None:
        raise OSError("the link is down")

    through, worker = transfer(untied), ("key", LocalClient(untied.engine))
    with monkeypatch.context() as patch:
        patch.setattr(nccl_engine, "packed_nccl_broadcast_consumer", break_off)
        with pytest.raises(PushError, match="local in phase update: OSError: the link is down"):
            through.send(1, [worker])
    with pytest.raises(OutOfServiceError, match="the link is down"):
        untied.engine.generate([EnginePrompt(TEXT_ONLY)], max_new_tokens=2)
    from boxmed_ray.actors.weight_source import ModuleWeights

    through_shm(ModuleWeights(untied.learner), [LocalClient(untied.engine)]).send_weights(2)
    assert_same_policy(untied)
