"""The command line: what it accepts and refuses, its exit codes, and that help is quick."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from boxmed_ray import cli
from boxmed_ray.checkpoint import CheckpointError
from boxmed_ray.config import ConfigError, RunConfig
from boxmed_ray.data.study import DataError
from boxmed_ray.mirror import MirrorError
from boxmed_ray.stages.watch import DivergedError


@dataclass
class Recorder:
    """Stands where the pipeline is imported and records what it was asked to run."""

    runs: list[tuple[RunConfig, bool]] = field(default_factory=list)
    error: BaseException | None = None
    signal: int | None = None
    creates: Path | None = None

    def run(self, config: RunConfig, *, resume: bool = False) -> None:
        self.runs.append((config, resume))
        if self.creates is not None:
            self.creates.mkdir(parents=True)
        if self.signal is not None:
            os.kill(os.getpid(), self.signal)
            time.sleep(5)
        if self.error is not None:
            raise self.error


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    module = types.ModuleType("boxmed_ray.pipeline")
    module.run = recorder.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "boxmed_ray.pipeline", module)
    monkeypatch.setattr("boxmed_ray.pipeline", module, raising=False)
    return recorder


@pytest.fixture
def boxmed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Boxmed:
    monkeypatch.chdir(tmp_path)
    return Boxmed(monkeypatch)


class Boxmed:
    """Call the entry point as the shell would, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str) -> int:
        self._monkeypatch.setattr(sys, "argv", ["boxmed", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code is None or isinstance(end.value.code, int)
        return end.value.code or 0


def _write_run(folder: Path, finished: bool) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: phantom-cpu\nseed: 5\nsvr:\n  steps: 9\n")
    if finished:
        (folder / "summary.json").write_text("{}")
    return folder


def test_help_answers_within_a_second_or_so_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); from boxmed_ray import cli; sys.argv = ['boxmed', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("train", "data", "serve", "export", "submit", "doctor"):
        assert command in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("command", ["train", "data", "serve", "export", "submit", "doctor"])
def test_every_command_explains_itself(boxmed: Boxmed, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert boxmed(command, "--help") == 0
    assert "Usage" in capsys.readouterr().out


def test_train_passes_recipe_overrides_and_options(boxmed: Boxmed, pipeline: Recorder, tmp_path: Path) -> None:
    arguments = ("--recipe", "phantom-cpu", "--set", "svr.steps=3", "--set", "seed=1", "--seed", "4", "--name", "012")
    assert boxmed("train", *arguments, "--runs-dir", str(tmp_path / "out")) == 0
    [(config, resume)] = pipeline.runs
    assert (config.svr.steps, config.seed, config.name, resume) == (3, 4, "012", False)
    assert config.folder == tmp_path / "out" / "012"


@pytest.mark.parametrize(
    "error",
    [
        DivergedError("stage svr stopped: prompts: p1; the last checkpoint is c/step-00000004"),
        CheckpointError("the checkpoint of step 4 cannot be written to c: No space left on device"),
        MirrorError("the run is finished in c, and its upload to s3://c failed"),
    ],
)
def test_what_goes_wrong_in_training_and_has_words_ends_with_one_message_and_exit_1(
    boxmed: Boxmed, pipeline: Recorder, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    pipeline.error = error
    assert boxmed("train", "--recipe", "phantom-cpu") == 1
    assert capsys.readouterr().err == f"boxmed: {pipeline.error}\n"


def test_the_folder_of_runs_may_come_from_the_environment(
    boxmed: Boxmed, pipeline: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BOXMED_RUNS_DIR", str(tmp_path / "there"))
    boxmed("train", "--recipe", "phantom-cpu")
    assert pipeline.runs[0][0].folder == tmp_path / "there" / "phantom-cpu"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ["--recipe", "--resume"]),
        (("--recipe", "nope"), ["nope", "phantom-cpu"]),
        (("--recipe", "phantom-cpu", "--set", "svr.stpes=3"), ["svr.stpes", "steps"]),
        (("--resume", "gone"), ["gone", "config.yaml", "--runs-dir"]),
        (("--resume", "gone", "--recipe", "phantom-cpu"), ["leave out"]),
        (("--resume", "gone", "--set", "seed=1"), ["leave out", "anything but resources"]),
        (("--recipe", "phantom-cpu", "--runs-dir", "ftp://host/runs"), ["ftp://host/runs", "s3, gs", "local folder"]),
        (("--resume", "gone", "--runs-dir", "ftp://host/runs"), ["ftp://host/runs", "s3, gs", "local folder"]),
        (("--resume", "gone", "--runs-dir", "fsspec+memory://cli"), ["fsspec+memory://cli/gone/config.yaml", "none"]),
    ],
)
def test_train_refuses_with_one_message_and_exit_2(
    boxmed: Boxmed, pipeline: Recorder, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], parts: list[str]
) -> None:
    assert boxmed("train", *arguments) == 2
    captured = capsys.readouterr()
    assert pipeline.runs == []
    assert captured.err.startswith("boxmed: ")
    for part in parts:
        assert part in captured.err
    assert "Traceback" not in captured.err


def test_a_run_that_exists_is_refused_with_both_remedies(
    boxmed: Boxmed, pipeline: Recorder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _write_run(tmp_path / "runs" / "phantom-cpu", finished=True)
    assert boxmed("train", "--recipe", "phantom-cpu") == 2
    error = capsys.readouterr().err
    assert "--name" in error
    assert "--resume phantom-cpu" in error
    assert pipeline.runs == []


def test_resume_takes_the_config_of_the_run_and_the_place_where_it_lies(
    boxmed: Boxmed, pipeline: Recorder, tmp_path: Path
) -> None:
    _write_run(tmp_path / "moved" / "renamed", finished=False)
    assert boxmed("train", "--resume", "renamed", "--runs-dir", str(tmp_path / "moved")) == 0
    [(config, resume)] = pipeline.runs
    assert resume
    assert (config.seed, config.svr.steps) == (5, 9)
    assert config.folder == tmp_path / "moved" / "renamed"


def test_a_resumed_run_may_have_another_world_size(boxmed: Boxmed, pipeline: Recorder, tmp_path: Path) -> None:
    _write_run(tmp_path / "runs" / "mine", finished=False)
    assert boxmed("train", "--resume", "mine", "--set", "resources.learner_ranks=1") == 0
    [(config, resume)] = pipeline.runs
    assert resume
    assert (config.resources.learner_ranks, config.resources.rollout_workers.max, config.seed) == (1, 2, 5)


def test_a_run_at_a_uri_is_found_there_and_worked_on_here(
    boxmed: Boxmed, pipeline: Recorder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    uri = f"file://{tmp_path}/there"
    assert boxmed("train", "--recipe", "phantom-cpu", "--name", "mine", "--runs-dir", uri) == 0
    assert pipeline.runs[0][0].runs_dir == uri
    assert pipeline.runs[0][0].folder.is_relative_to("runs/file")
    assert pipeline.runs[0][0].folder.name == "mine"
    folder = _write_run(tmp_path / "there" / "mine", finished=False)
    assert boxmed("train", "--recipe", "phantom-cpu", "--name", "mine", "--runs-dir", uri) == 2
    assert f"{uri}/mine" in capsys.readouterr().err
    assert boxmed("train", "--recipe", "phantom-cpu", "--name", "mine", "--runs-dir", uri, "--again") == 0
    work = ("--set", f"work_dir={tmp_path}/scratch")
    assert boxmed("train", "--resume", "mine", "--runs-dir", uri, *work) == 0
    assert [resume for _, resume in pipeline.runs] == [False, True, True]
    resumed = pipeline.runs[-1][0]
    assert (resumed.seed, resumed.runs_dir) == (5, uri)
    assert resumed.folder.is_relative_to(tmp_path / "scratch")
    assert boxmed("train", "--resume", "other", "--runs-dir", uri) == 2
    assert "runs there: mine" in capsys.readouterr().err
    (folder / "summary.json").write_text("{}")
    assert boxmed("train", "--recipe", "phantom-cpu", "--name", "mine", "--runs-dir", uri, "--again") == 2
    assert "--name" in capsys.readouterr().err


def test_an_interrupted_run_at_a_uri_says_how_to_go_on(
    boxmed: Boxmed, pipeline: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.signal = signal.SIGINT
    uri = "fsspec+memory://interrupted/runs?a=1&b=2"
    assert boxmed("train", "--recipe", "phantom-cpu", "--name", "mine", "--runs-dir", uri) == 130
    assert f"boxmed train --resume mine --runs-dir '{uri}'" in capsys.readouterr().err


def test_again_goes_on_with_an_unfinished_run(boxmed: Boxmed, pipeline: Recorder, tmp_path: Path) -> None:
    _write_run(tmp_path / "runs" / "phantom-cpu", finished=False)
    assert boxmed("train", "--recipe", "phantom-cpu", "--again") == 0
    [(config, resume)] = pipeline.runs
    assert resume
    assert config.seed == 5


def test_again_moves_a_finished_run_aside_and_starts_anew(
    boxmed: Boxmed, pipeline: Recorder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for _ in range(2):
        _write_run(tmp_path / "runs" / "phantom-cpu", finished=True)
        assert boxmed("train", "--recipe", "phantom-cpu", "--again") == 0
    assert [resume for _, resume in pipeline.runs] == [False, False]
    kept = sorted((tmp_path / "runs").iterdir())
    assert len(kept) == 2
    assert all((folder / "summary.json").is_file() and folder.name != "phantom-cpu" for folder in kept)
    assert kept[0].name in capsys.readouterr().err


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_what_the_user_can_put_right_ends_in_one_message(
    boxmed: Boxmed, pipeline: Recorder, capsys: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    pipeline.error = kind("a.png: truncated; replace the file")
    assert boxmed("train", "--recipe", "phantom-cpu") == 2
    assert capsys.readouterr().err == "boxmed: a.png: truncated; replace the file\n"


def test_refused_data_does_not_block_the_name_of_the_run_but_a_trained_one_stays(
    boxmed: Boxmed, pipeline: Recorder, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "phantom-cpu"
    pipeline.error = DataError("a.png: truncated; replace the file")
    pipeline.creates = folder / "data"
    assert boxmed("train", "--recipe", "phantom-cpu") == 2
    assert not folder.exists()
    pipeline.creates = folder / "stages"
    assert boxmed("train", "--recipe", "phantom-cpu") == 2
    assert folder.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_with_the_shells_code_and_says_how_to_go_on(
    boxmed: Boxmed, pipeline: Recorder, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    before = signal.getsignal(number)
    pipeline.signal = number
    assert boxmed("train", "--recipe", "phantom-cpu", "--name", "mine") == code
    assert "boxmed train --resume mine" in capsys.readouterr().err
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--address", "localhost:1", "--", "doctor"), ["no Ray cluster answers", "ray start --head"]),
        (("--address", "localhost:1"), ["nothing", "-- train --recipe"]),
        (("--address", "localhost:1", "--", "rm"), ["'rm'", "train"]),
        (("--address", "ftp://here", "--", "doctor"), ["ftp://here", "8265"]),
        (("--address", "here:port", "--", "doctor"), ["here:port", "8265"]),
        (("--address", "localhost:1", "--", "train", "--set", "data.root=../x"), ["data.root=../x", "absolute"]),
        (("--address", "localhost:1", "--attach", "a", "--", "doctor"), ["--attach", "leave out"]),
    ],
)
def test_submit_refuses_what_cannot_work(
    boxmed: Boxmed, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], parts: list[str]
) -> None:
    assert boxmed("submit", *arguments) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error


def test_serve_refuses_a_run_that_does_not_exist(boxmed: Boxmed, capsys: pytest.CaptureFixture[str]) -> None:
    assert boxmed("serve", "runs/nothing", "--no-auth") == 2
    assert "runs/nothing" in capsys.readouterr().err


def test_serve_asks_for_keys_or_an_explicit_word(
    boxmed: Boxmed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert boxmed("serve", str(tmp_path), "--keys", str(tmp_path / "none.json")) == 2
    told = capsys.readouterr().err
    assert "boxmed keys add" in told
    assert "--no-auth" in told


@pytest.mark.parametrize(
    ("option", "value"),
    [("--replicas", "0"), ("--replicas", "3:2"), ("--replicas", "x"), ("--adapter", "x"), ("--adapter", "x=/nowhere")],
)
def test_serve_tells_what_is_wrong_with_an_option(
    boxmed: Boxmed, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert boxmed("serve", str(tmp_path), "--no-auth", option, value) == 2
    assert option in capsys.readouterr().err or option == "--adapter"


def test_keys_are_made_listed_and_revoked(boxmed: Boxmed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "keys.json")
    assert boxmed("keys", "add", "reader", "--keys", file) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("bxm_")
    assert key not in Path(file).read_text()
    assert Path(file).stat().st_mode & 0o077 == 0
    assert boxmed("keys", "revoke", "reader", "--keys", file) == 0
    assert boxmed("keys", "revoke", "reader", "--keys", file) == 2
    assert boxmed("keys", "list", "--keys", file) == 0
    shown = capsys.readouterr().out
    assert "reader" in shown
    assert "revoked" in shown


def test_serve_says_that_it_reads_a_local_folder(boxmed: Boxmed, capsys: pytest.CaptureFixture[str]) -> None:
    assert boxmed("serve", "mine", "--runs-dir", "s3://bucket/runs") == 2
    assert "local folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("gone", "--to", "out"), ["gone", "no run folder"]),
        (("mine", "--to", "runs"), ["--to runs", "exists"]),
        (("mine", "--to", "out"), ["--checkpoint best", "none, SVR has left no checkpoint"]),
        (("mine", "--to", "out", "--checkpoint", "7"), ["--checkpoint 7", "best, last"]),
    ],
)
def test_export_refuses_what_is_not_there(
    boxmed: Boxmed, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], parts: list[str]
) -> None:
    (_write_run(tmp_path / "runs" / "mine", finished=False) / "stages/mcl/model").mkdir(parents=True)
    assert boxmed("export", *arguments) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error


def test_data_counts_by_split_and_refuses_as_training_would(
    boxmed: Boxmed, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sizes = ("--set", "data.train_studies=12", "--set", "data.test_studies=5")
    assert boxmed("data", "--recipe", "phantom-cpu", *sizes) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["studies", "12", "5"] in lines
    assert boxmed("data", "--recipe", "phantom-cpu", "--set", "data.kind=nih", "--set", f"data.root={tmp_path}") == 2
    assert str(tmp_path) in capsys.readouterr().err
