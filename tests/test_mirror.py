"""The copy of a run at a URI: whole at any moment, whatever fails, and enough for another machine to go on."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from boxmed_ray import mirror as mirror_module
from boxmed_ray.checkpoint import CheckpointStore, read_checkpoint
from boxmed_ray.config import ConfigError, RunConfig
from boxmed_ray.mirror import Mirror, MirrorError, mirrored
from boxmed_ray.remote import RemoteFolder, open_folder
from boxmed_ray.tracking import MetricsWriter, read_metrics
from tests.remote_cases import KINDS, remote_folder


@pytest.fixture(params=KINDS)
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> RemoteFolder:
    return remote_folder(request.param, tmp_path)


class Machine:
    """A local run folder that does what stages do, and its mirror."""

    def __init__(self, folder: Path, remote: RemoteFolder) -> None:
        self.folder, self.remote = folder, remote
        self.mirror = Mirror(folder, remote)

    def start(self) -> Machine:
        self.mirror.begin(resume=False)
        self.folder.mkdir(parents=True)
        (self.folder / "config.yaml").write_text("name: run\n")
        return self

    def resume(self) -> Machine:
        self.mirror.begin(resume=True)
        return self

    def store(self, stage: str = "svr") -> CheckpointStore:
        return CheckpointStore(self.folder / "stages" / stage / "checkpoints", keep=2)

    def train(self, *steps: int, score: Callable[[int], float] = lambda _: 0.0) -> None:
        """Metrics and a checkpoint of every step."""
        for step in steps:
            with MetricsWriter(self.folder / "metrics.jsonl") as writer:
                writer.write("svr", step, {"reward": step})

            def write(folder: Path, step: int = step) -> None:
                (folder / "engine.safetensors").write_bytes(bytes([step]) * 5000)

            self.store().save(step, {"prompts_drawn": 4 * step}, write, score(step))

    def end(self, stage: str, **files: str) -> None:
        """A stage's model, then the word that it is done."""
        folder = self.folder / "stages" / stage
        (folder / "model").mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / "model" / name).write_text(content)
        (folder / "done.json").write_text("{}")


def content(folder: Path) -> dict[str, bytes]:
    """All files of a run folder but the word about who writes it."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "writer.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_another_machine_gets_the_run_as_it_is(remote: RemoteFolder, tmp_path: Path) -> None:
    first = Machine(tmp_path / "a" / "run", remote).start()
    first.end("mcl", weights="of mcl")
    first.train(1, 2, 3, score=lambda step: -step)
    first.mirror.sync()
    second = Machine(tmp_path / "b" / "run", remote).resume()
    assert content(second.folder) == content(first.folder)
    latest, best = second.store().latest(), second.store().best()
    assert latest is not None
    assert best is not None
    assert (latest.step, latest.state, best.step) == (3, {"prompts_drawn": 12}, 1)
    second.train(4)
    second.end("svr", weights="of svr")
    (second.folder / "summary.json").write_text("{}")
    second.mirror.sync()
    third = Machine(tmp_path / "c" / "run", remote).resume()
    there = {name for name in content(second.folder) if "checkpoints" not in name}
    assert content(third.folder).keys() == there  # checkpoints of a stage that is done are left where they are
    third.mirror.sync()
    assert "stages/svr/checkpoints/step-00000004/manifest.json" in remote.files()  # and stay there


def test_only_what_is_kept_here_is_kept_there_and_the_best_is_never_missing(
    remote: RemoteFolder, tmp_path: Path
) -> None:
    run = Machine(tmp_path / "run", remote).start()
    for step in range(1, 7):
        run.train(step, score=lambda step: {2: 9.0, 5: 10.0}.get(step, 0.0))
        run.mirror.sync()
        names = [name for name in remote.folder("stages/svr/checkpoints").names() if name.startswith("step-")]
        assert names == sorted(folder.name for folder in run.store().folder.glob("step-*"))
        best = json.loads(remote.read("stages/svr/checkpoints/best.json") or b"")["checkpoint"]
        assert best in names
    assert names == ["step-00000005", "step-00000006"]


def test_a_checkpoint_without_its_manifest_is_no_checkpoint(remote: RemoteFolder, tmp_path: Path) -> None:
    run = Machine(tmp_path / "a" / "run", remote).start()
    run.train(1, 2)
    run.mirror.sync()
    remote.remove("stages/svr/checkpoints/step-00000002/manifest.json")
    other = Machine(tmp_path / "b" / "run", remote).resume()
    assert [folder.name for folder in other.store().folder.glob("step-*")] == ["step-00000001"]


def test_a_copy_that_was_damaged_there_is_seen_and_the_one_before_it_used(
    remote: RemoteFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Machine(tmp_path / "a" / "run", remote).start()
    run.train(1, 2)
    run.mirror.sync()
    remote.write("stages/svr/checkpoints/step-00000002/engine.safetensors", b"\2" * 4999)
    found = Machine(tmp_path / "b" / "run", remote).resume().store().latest()
    assert found is not None
    assert found.step == 1
    assert "DAMAGED CHECKPOINT" in caplog.text


class Failing(RemoteFolder):
    """A store that fails at the operation of a number, having done half of it."""

    left: ClassVar[list[int]] = [10**9]

    def folder(self, name: str) -> RemoteFolder:
        inner = super().folder(name)
        inner.__class__ = Failing
        return inner

    def _count(self) -> None:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise OSError("the store is gone")

    def write(self, path: str, content: bytes) -> None:
        self._count()
        super().write(path, content)

    def upload(self, source: Path, path: str) -> None:
        self._count()
        super().upload(source, path)

    def remove(self, path: str) -> None:
        self._count()
        super().remove(path)

    def remove_folder(self, path: str) -> None:
        if self.left[0] == 0:  # an object store removes file by file
            super().remove((super().files(path) or [f"{path}/none"])[0])
        self._count()
        super().remove_folder(path)


def test_a_sync_that_breaks_off_anywhere_leaves_a_run_that_can_be_gone_on_with(tmp_path: Path) -> None:
    """After every number of operations: the newest checkpoint there is whole, and metrics are not behind it."""
    outcomes = []
    for operations in range(100):
        place = tmp_path / str(operations)
        remote = open_folder(f"file://{place}/remote")
        run = Machine(place / "a" / "run", remote).start()
        run.end("mcl", weights="x")
        run.train(1, 2)
        run.mirror.sync()
        run.train(3, score=lambda _: 1.0)
        run.end("svr", weights="y", tokenizer="z")
        (run.folder / "summary.json").write_text("{}")
        remote.__class__ = Failing
        Failing.left = [operations]
        try:
            run.mirror.sync()
            whole = True
        except OSError:
            whole = False
        remote.__class__ = RemoteFolder
        other = Machine(place / "b" / "run", remote).resume()
        done = (other.folder / "stages/svr/done.json").is_file()
        if done:
            assert content(other.folder)["stages/svr/model/weights"] == b"y"
            assert "stages/svr/model/tokenizer" in content(other.folder)
        else:
            steps = [read_checkpoint(folder).step for folder in sorted(other.store().folder.glob("step-*"))]
            assert read_metrics(other.folder / "metrics.jsonl")[-1]["step"] >= steps[-1]
            outcomes.append(steps[-1])
        assert (other.folder / "summary.json").is_file() == whole
        if whole:
            break
        # The machine it failed on tries again: where nobody has taken over meanwhile, all is there in the end.
        remote.write("writer.json", run.mirror._claim)
        run.mirror.sync()
        assert set(content(run.folder)) <= set(remote.files())
    assert whole
    assert set(outcomes) == {2, 3}


def test_a_run_that_was_gone_on_with_elsewhere_is_not_written_by_two(remote: RemoteFolder, tmp_path: Path) -> None:
    first = Machine(tmp_path / "a" / "run", remote).start()
    first.train(1)
    first.mirror.sync()
    second = Machine(tmp_path / "b" / "run", remote).resume()
    second.train(2)
    second.mirror.sync()
    first.train(2, 3)
    with pytest.raises(MirrorError, match="another process has gone on"):
        first.mirror.sync()
    again = Machine(tmp_path / "a" / "run", remote).resume()
    latest = again.store().latest()
    assert latest is not None
    assert latest.step == 2
    [aside] = [folder for folder in (tmp_path / "a").iterdir() if folder.name != "run"]
    assert (aside / "stages/svr/checkpoints/step-00000003").is_dir()  # nothing is thrown away


def test_the_same_machine_goes_on_with_its_own_folder_which_may_be_ahead(remote: RemoteFolder, tmp_path: Path) -> None:
    first = Machine(tmp_path / "run", remote).start()
    first.train(1)
    first.mirror.sync()
    first.train(2)  # never uploaded
    again = Machine(tmp_path / "run", remote).resume()
    latest = again.store().latest()
    assert latest is not None
    assert latest.step == 2
    again.mirror.sync()
    assert "stages/svr/checkpoints/step-00000002/manifest.json" in remote.files()


def test_a_download_that_was_killed_is_begun_anew(remote: RemoteFolder, tmp_path: Path) -> None:
    Machine(tmp_path / "a" / "run", remote).start().mirror.sync()
    left = tmp_path / "b" / ".run.part"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    second = Machine(tmp_path / "b" / "run", remote).resume()
    assert content(second.folder) == {"config.yaml": b"name: run\n"}
    assert not left.exists()


def test_what_was_uploaded_is_not_uploaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = open_folder(f"file://{tmp_path}/remote")
    run = Machine(tmp_path / "run", remote).start()
    run.end("mcl", weights="x")
    run.train(1)
    sent: list[str] = []
    upload = RemoteFolder.upload

    def count(self: RemoteFolder, source: Path, path: str) -> None:
        sent.append(path)
        upload(self, source, path)

    monkeypatch.setattr(RemoteFolder, "upload", count)
    run.mirror.sync()
    assert {"stages/mcl/model/weights", "stages/svr/checkpoints/step-00000001/engine.safetensors"} <= set(sent)
    sent.clear()
    run.mirror.sync()
    assert sent == []
    again = Machine(tmp_path / "run", remote).resume()
    again.mirror.sync()
    assert {name for name in sent if "model" in name or "engine" in name} == set()


def test_uploads_beside_a_stage_that_writes_and_drops_checkpoints_do_not_fail(tmp_path: Path) -> None:
    remote = open_folder(f"file://{tmp_path}/remote")
    run = Machine(tmp_path / "a" / "run", remote).start()
    stage = threading.Thread(target=run.train, args=range(1, 60), kwargs={"score": lambda step: step % 7})
    stage.start()
    while stage.is_alive():
        run.mirror.sync()
    stage.join()
    run.mirror.sync()
    other = Machine(tmp_path / "b" / "run", remote).resume()
    assert content(other.folder) == content(run.folder)


def config(tmp_path: Path) -> RunConfig:
    return RunConfig(name="run", runs_dir=f"file://{tmp_path}/remote", work_dir=tmp_path / "work")


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_POLL_S", 0.02)


def test_a_failed_upload_is_loud_and_tried_again_at_the_next_checkpoint(
    tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    settings, remote = config(tmp_path), tmp_path / "remote"
    with mirrored(settings, resume=False):
        run = Machine(settings.folder, open_folder(settings.runs_dir).folder("run"))
        run.folder.mkdir(parents=True)
        (run.folder / "config.yaml").write_text("name: run\n")
        run.train(1)
        wait_for((remote / "run/stages/svr/checkpoints/best.json").is_file)  # the last file of this upload
        shutil.move(remote, tmp_path / "gone")
        remote.write_text("a file is in the way")
        run.train(2)
        wait_for(lambda: "UPLOAD TO" in caplog.text)
        assert str(run.folder) in caplog.text
        remote.unlink()
        shutil.move(tmp_path / "gone", remote)
        run.train(3)
        wait_for((remote / "run/stages/svr/checkpoints/step-00000003/manifest.json").is_file)
        assert (remote / "run/stages/svr/checkpoints/step-00000002/manifest.json").is_file()
    assert not list((tmp_path / "work").glob("*.part"))


def test_a_last_upload_that_fails_is_an_error_that_says_where_the_run_is(tmp_path: Path, quick: None) -> None:
    settings = config(tmp_path)

    def run() -> None:
        with mirrored(settings, resume=False):
            settings.folder.mkdir(parents=True)
            shutil.rmtree(tmp_path / "remote")
            (tmp_path / "remote").write_text("a file is in the way")

    with pytest.raises(MirrorError) as error:
        run()
    for part in (str(settings.folder), settings.runs_dir, "--resume run"):
        assert part in str(error.value)


def test_an_interrupted_run_is_uploaded_before_it_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = config(tmp_path)

    def run() -> None:
        with mirrored(settings, resume=False):
            machine = Machine(settings.folder, open_folder(settings.runs_dir).folder("run"))
            machine.folder.mkdir(parents=True)
            machine.train(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert (tmp_path / "remote/run/stages/svr/checkpoints/step-00000001/manifest.json").is_file()
    assert caplog.text == ""


def test_a_run_refused_before_it_trained_leaves_nothing_there(tmp_path: Path) -> None:
    settings = config(tmp_path)
    with pytest.raises(ConfigError), mirrored(settings, resume=False):
        raise ConfigError("no")
    assert open_folder(settings.runs_dir).files() == []


def test_a_place_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "remote").write_text("in the way")
    with pytest.raises(ConfigError, match="runs_dir file://"), mirrored(config(tmp_path), resume=False):
        pytest.fail("the run was started")


def test_a_local_run_has_no_mirror(tmp_path: Path) -> None:
    with mirrored(RunConfig(name="run", runs_dir=tmp_path), resume=False):
        pass
    assert list(tmp_path.iterdir()) == []
