"""Publishing and delivering over Ray, from a learner rank as it is to workers that read but do not generate."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boxmed_ray.actors.learner_group import LearnerGroup
from boxmed_ray.actors.weight_push import PushError, WeightPush
from tests.actors import learner_cases
from tests.actors.weight_worker import Sums, Worker

WAYS = ("shm", "object_store")


@pytest.fixture(scope="module")
def group(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LearnerGroup]:
    folder = tmp_path_factory.mktemp("push")
    config = learner_cases.config(folder)
    group = LearnerGroup(config, learner_cases.model_folder(config, folder))
    group.start()
    yield group
    files = files_of(group)
    assert files
    group.shutdown()
    assert not any(Path(path).exists() for path in files)


@pytest.fixture(scope="module")
def actors(ray_cluster: None) -> Iterator[list[Any]]:
    """Starting one takes longer than most tests: all tests take the same."""
    import ray

    handles = [ray.remote(Worker).options(num_cpus=0, max_restarts=0).remote() for _ in range(3)]
    ray.get([handle.ready.remote() for handle in handles])
    yield handles
    for handle in handles:
        ray.kill(handle)


@pytest.fixture
def workers(actors: list[Any]) -> list[tuple[str, Any]]:
    """Two that behave."""
    import ray

    ray.get([actor.misbehave.remote("", "") for actor in actors[:2]])
    return list(zip(("a", "b"), actors[:2], strict=True))


def files_of(group: LearnerGroup) -> list[str]:
    """Paths of what the learner keeps in shared memory."""
    import ray

    def paths(rank: Any) -> list[str]:
        return [str(file.path) for file in rank._publishers["shm"][0]._files] if "shm" in rank._publishers else []

    found: list[str] = ray.get(group.ranks[0].__ray_call__.remote(paths))
    return found


@pytest.fixture(params=WAYS)
def push(request: pytest.FixtureRequest, group: LearnerGroup) -> WeightPush:
    return pushing(group, request.param)


def pushing(group: LearnerGroup, way: str, timeout_s: float = 30) -> WeightPush:
    """A push of its own over the module's learner."""
    svr = group.config.svr.model_copy(update={"push": way})
    learner = SimpleNamespace(
        config=group.config.model_copy(update={"svr": svr}), ranks=group.ranks, publish_weights=group.publish_weights
    )
    return WeightPush(learner, timeout_s)  # type: ignore[arg-type]


def moved(group: LearnerGroup) -> Sums:
    """Move every weight of the learner; the sum of each tensor."""
    import ray

    def move(rank: Any) -> Sums:
        import torch

        with torch.no_grad():
            for parameter in rank._model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        rank._engine.updates += 1
        return {name: float(parameter.detach().double().sum()) for name, parameter in rank._model.named_parameters()}

    sums: Sums = ray.get(group.ranks[0].__ray_call__.remote(move))
    return sums


def state(worker: tuple[str, Any]) -> tuple[int, Sums] | None:
    import ray

    found: tuple[int, Sums] | None = ray.get(worker[1].state.remote())
    return found


def tell(worker: tuple[str, Any], phase: str, how: str, seconds: float = 0.0) -> None:
    import ray

    ray.get(worker[1].misbehave.remote(phase, how, seconds))


pytestmark = pytest.mark.ray


def test_the_drivers_side_imports_neither_torch_nor_vllm() -> None:
    program = "import sys, boxmed_ray.actors.weight_push; sys.exit(bool({'torch', 'vllm'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_version_arrives_whole_on_every_worker(group: LearnerGroup, push: WeightPush, workers: Any) -> None:
    for _ in range(4):  # both files twice
        sums = moved(group)
        publication = push.publish()
        report = push.deliver(workers)
        assert push.latest is publication
        assert (report.workers, report.version) == (["a", "b"], publication.version)
        assert [state(worker) for worker in workers] == [(publication.version, sums)] * 2
        assert report.nbytes == publication.nbytes > 100_000
        assert publication.transport_s > 0
        assert set(report.phases_s) >= {"pause", "start", "update", "finish", "resume"}
    assert len(files_of(group)) <= 2


def test_a_worker_that_joins_later_gets_the_newest_while_the_learner_learns(
    group: LearnerGroup, push: WeightPush, workers: Any, tmp_path: Path
) -> None:
    import ray

    def learn(_: Any) -> None:
        while not (tmp_path / "end").exists():
            time.sleep(0.05)

    late = workers[0]
    with pytest.raises(RuntimeError, match="no version is published"):
        push.deliver([])
    moved(group)
    push.publish()
    sums = moved(group)
    version = push.publish().version
    learning = group.ranks[0].__ray_call__.remote(learn)
    try:
        assert push.deliver([late]).workers == ["a"]
    finally:
        (tmp_path / "end").touch()
    assert state(late) == (version, sums)
    ray.get(learning)


@pytest.mark.parametrize("phase", ["connect", "pause", "start", "update", "finish", "resume"])
def test_a_worker_that_fails_in_a_phase_is_named_with_it_and_the_next_whole_version_brings_it_back(
    group: LearnerGroup, workers: Any, phase: str
) -> None:
    push = pushing(group, "shm")
    tell(workers[1], phase, "raise")
    sums = moved(group)
    version = push.publish().version
    with pytest.raises(PushError, match=rf"b in phase {phase}: OSError: the host went away") as caught:
        push.deliver(workers)
    assert caught.value.report.workers == ["a"]
    assert state(workers[0]) == (version, sums)
    if phase in ("update", "finish"):
        assert state(workers[1]) is None
    tell(workers[1], "", "")
    push.deliver(workers[1:])
    assert state(workers[1]) == (version, sums)


def test_a_worker_that_is_killed_in_a_push_costs_only_itself(
    group: LearnerGroup, actors: list[Any], workers: Any
) -> None:
    push, workers = pushing(group, "shm"), [("dies", actors[2]), workers[0]]
    tell(workers[0], "update", "die")
    sums = moved(group)
    version = push.publish().version
    with pytest.raises(PushError, match=r"dies in phase (pause|start|update): .*ActorDiedError") as caught:
        push.deliver(workers)
    assert caught.value.report.workers == ["a"]
    for _ in range(3):  # the dead reader's lock is gone with it
        sums = moved(group)
        version = push.publish().version
        push.deliver(workers[1:])
    assert state(workers[1]) == (version, sums)


def test_a_publication_stays_readable_while_a_slow_worker_reads_it_and_two_are_kept_at_most(
    group: LearnerGroup, push: WeightPush, workers: Any
) -> None:
    slow, quick = workers
    tell(slow, "update", "sleep", 3.0)
    first = moved(group)
    one = push.publish()
    delivery = threading.Thread(target=push.deliver, args=([slow],))
    delivery.start()
    time.sleep(0.5)
    second = moved(group)
    two = push.publish()
    push.deliver([quick])
    assert delivery.is_alive()
    assert state(quick) == (two.version, second)
    began = time.monotonic()
    third = moved(group)
    three = push.publish()  # waits for the slow worker
    delivery.join(10)
    assert time.monotonic() - began > 0.5
    assert state(slow) == (one.version, first)
    tell(slow, "", "")
    push.deliver([slow, quick])
    assert state(slow) == state(quick) == (three.version, third)
    assert len(files_of(group)) <= 2


def test_a_worker_that_comes_too_late_to_its_file_refuses_what_it_finds_there(
    group: LearnerGroup, workers: Any
) -> None:
    push, late = pushing(group, "shm", timeout_s=2), workers[0]
    tell(late, "update", "sleep", 6.0)
    moved(group)
    push.publish()
    with pytest.raises(PushError, match="a in phase update: no answer within 2 s"):
        push.deliver([late])
    for _ in range(2):  # over the file that it is about to open
        moved(group)
        push.publish()
    assert state(late) is None
    tell(late, "", "")
    push.deliver([late])
    assert state(late) is not None


def test_two_deliveries_to_one_worker_follow_each_other(group: LearnerGroup, push: WeightPush, workers: Any) -> None:
    import ray

    moved(group)
    push.publish()
    worker = workers[0]
    tell(worker, "update", "sleep", 0.3)
    threads = [threading.Thread(target=push.deliver, args=([worker],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    whole = ["pause", "start", "update", "finish", "resume"]
    assert ray.get(worker[1].seen.remote()) == ["connect", *whole * 3]
