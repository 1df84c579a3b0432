"""What is sent to a cluster; the cluster itself is in integration/test_submit.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boxmed_ray.config import ConfigError
from boxmed_ray.submit import Submission, dashboard_url, entrypoint, is_local, runtime_env, submit

REPO = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("head", "http://head:8265"),
        ("head:80", "http://head:80"),
        ("http://head", "http://head:8265"),
        ("https://ray.lab.example/", "https://ray.lab.example"),
        ("[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_an_address_is_completed_to_the_url_of_the_dashboard(address: str, url: str) -> None:
    assert dashboard_url(address) == url


@pytest.mark.parametrize(
    ("address", "local"),
    [("localhost", True), ("127.0.0.1:8265", True), ("[::1]:8265", True), ("10.0.0.4", False), ("head", False)],
)
def test_only_the_loopback_is_this_machine(address: str, local: bool) -> None:
    assert is_local(dashboard_url(address)) is local


def _run_shell(line: str, **variables: str) -> list[str]:
    """Arguments as the cluster's shell would pass them, with an interpreter that prints them."""
    show = 'exec bash -c \'printf "%s\\n" "$BOXMED_RUNS_DIR" "$@"\' _ '
    script = line.replace("exec ", show)
    env = {"PATH": os.environ["PATH"], "HOME": "/home/ray", **variables}
    return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )


def test_on_a_local_cluster_this_interpreter_writes_below_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("train", "--recipe", "phantom-cpu", "--set", "svr.rewards={iou: 1.0}")
    words = _run_shell(entrypoint(Submission(command, "localhost"), "http://localhost:8265"))
    assert words[:-1] == [str(tmp_path / "runs"), sys.executable, "-m", "boxmed_ray.cli", *command]


def test_on_a_remote_cluster_its_own_interpreter_and_folder_are_used() -> None:
    line = entrypoint(Submission(("doctor",), "head"), "http://head:8265")
    assert _run_shell(line)[:2] == ["/home/ray/boxmed-runs", "python"]
    assert _run_shell(line, BOXMED_RUNS_DIR="/mnt/runs")[0] == "/mnt/runs"
    chosen = Submission(("doctor",), "head", runs_dir="/mnt/my runs", python="/opt/bin/python")
    assert _run_shell(entrypoint(chosen, "http://head:8265"))[:2] == ["/mnt/my runs", "/opt/bin/python"]


def test_the_project_is_sent_without_environment_runs_and_history() -> None:
    from ray._private.runtime_env.packaging import _get_excludes

    env = runtime_env(Submission(("doctor",), "localhost"))
    assert env["working_dir"] == str(REPO)
    excluded = _get_excludes(REPO, env["excludes"])
    left_out = (
        ".venv/bin/python", ".git/config", "runs/a/config.yaml", "boxmed_ray/__pycache__/x.pyc", ".env",
        "wandb/run-1/files/output.log", "mlruns/0/meta.yaml", "evaluations/a/reports.csv",
        "ablations/runs/a/config.yaml",
    )  # fmt: skip
    for path in left_out:
        assert any(excluded(REPO / parent) for parent in (path, *map(str, Path(path).parents))), path
    for path in ("boxmed_ray/cli.py", "boxmed_ray/recipes/phantom-cpu.yaml", "rewards/box.py", "pyproject.toml"):
        assert not excluded(REPO / path), path


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("--recipe=phantom-cpu", "--set=svr.stpes=1"), "unknown key 'svr.stpes'"),
        (("--recipe", "phantom-gpu"), "recipe 'phantom-gpu' is unknown"),
        (("--recipe", "nih-cpu", "--set=data.root=nih"), "the absolute path that the cluster sees"),
    ],
)
def test_a_wrong_command_is_refused_however_it_is_written(command: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        submit(Submission(("train", *command), "192.0.2.1"))


def test_a_working_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        runtime_env(Submission(("doctor",), "localhost", working_dir=tmp_path / "none"))
