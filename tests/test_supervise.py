"""A run that is killed is gone on with; one that fails or is stopped is not. The children are small scripts."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boxmed_ray.commands import supervise as module
from boxmed_ray.commands.supervise import supervise

KILLED_TWICE = """
import os, pathlib, signal, sys
log = pathlib.Path(sys.argv[1])
times = len(log.read_text().splitlines()) if log.exists() else 0
with log.open("a") as file:
    print(*sys.argv[2:], file=file)
if times < 2:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[3]))
"""


def play(monkeypatch: pytest.MonkeyPatch, script: str, log: Path) -> None:
    monkeypatch.setattr(module, "_TRAIN", [sys.executable, "-c", script, str(log)])


@pytest.mark.parametrize(
    ("given", "then"), [(["--name", "0"], ["--name", "0", "--again"]), (["--resume", "0"], ["--resume", "0"])]
)
def test_a_killed_run_is_gone_on_with(
    given: list[str],
    then: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    play(monkeypatch, KILLED_TWICE, tmp_path / "log")
    assert supervise(given, restarts=3) == 0
    assert (tmp_path / "log").read_text().splitlines() == [" ".join(given), *[" ".join(then)] * 2]
    assert "killed by SIGKILL: going on with it (restart 2 of 3)" in capsys.readouterr().err


def test_it_is_not_started_more_often_than_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, KILLED_TWICE, tmp_path / "log")
    assert supervise(["--name", "0"], restarts=1) == 128 + signal.SIGKILL
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_a_run_that_fails_by_itself_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("1\n2\n")
    play(monkeypatch, KILLED_TWICE, tmp_path / "log")
    assert supervise(["--name", "2"], restarts=3) == 2
    assert len((tmp_path / "log").read_text().splitlines()) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_reaches_the_run_once_and_ends_both(number: signal.Signals, tmp_path: Path) -> None:
    child = (
        "import pathlib, signal, sys, time\n"
        "log = pathlib.Path(sys.argv[1])\n"
        "got = []\n"
        "for n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, lambda n, _: got.append(n))\n"
        "log.write_text('up')\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "log.write_text(repr([int(n) for n in got]))\n"
        "sys.exit(128 + got[0])\n"
    )
    parent = (
        "import sys\nfrom boxmed_ray.commands import supervise as m\n"
        f"m._TRAIN = [sys.executable, '-c', {child!r}, {str(tmp_path / 'log')!r}]\n"
        "sys.exit(m.supervise([], 5))\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], start_new_session=True) as process:
        while not (tmp_path / "log").exists():
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    assert (tmp_path / "log").read_text() == repr([int(number)])
