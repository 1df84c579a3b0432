"""`boxmed submit` against a real `ray start --head` of this test's own, with token authentication on."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from boxmed_ray.evaluate.summary import read_summary
from tests.integration.test_pipeline import SMALLEST

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent
REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Head:
    address: str
    token: str
    gcs: str
    folder: str


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _environment(token: str | None) -> dict[str, str]:
    """As in a shell where nobody has set a mode: the client has to find out."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    env = {name: value for name, value in os.environ.items() if name not in names}
    env["HOME"] = "/nonexistent"  # no token of the person who runs the tests
    return env if token is None else {**env, "RAY_AUTH_TOKEN": token}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head of two CPUs on free ports, ended with its whole process group."""
    token = secrets.token_hex(16)
    gcs, dashboard, agent, client = _free_ports(4)
    folder = tempfile.mkdtemp(prefix="bx-head-")
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2",
        "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
        f"--temp-dir={folder}", f"--object-store-memory={200 << 20}",
    ]  # fmt: skip
    log = Path(folder) / "start.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            env={
                **_environment(token),
                "RAY_AUTH_MODE": "token",
                "HOME": folder,
                "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240",
            },
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for(f"http://127.0.0.1:{dashboard}/api/version", process, log)
        yield Head(f"127.0.0.1:{dashboard}", token, f"127.0.0.1:{gcs}", folder)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(head: Head) -> Iterator[Head]:
    """Another node beside the head, with a GPU that it only says it has."""
    log = Path(head.folder) / "node.log"
    command = [
        str(BIN / "ray"), "start", "--block", "--disable-usage-stats", "--num-cpus=1", "--num-gpus=1",
        "--node-ip-address=127.0.0.1", f"--address={head.gcs}", f"--object-store-memory={100 << 20}",
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env={**_environment(head.token), "RAY_AUTH_MODE": "token", "HOME": head.folder}, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.3)
        yield head
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 270
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # up, and asking for the token
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"no dashboard after 270 s: {log.read_text()}")


def _submit(*arguments: str, token: str | None, cwd: Path, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return _boxmed("submit", *arguments, token=token, cwd=cwd, timeout=timeout)


def _boxmed(*arguments: str, token: str | None, cwd: Path, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "boxmed_ray.cli", *arguments],
        env=_environment(token),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_a_job_runs_from_the_packaged_folder_and_its_log_and_exit_code_come_back(head: Head, tmp_path: Path) -> None:
    done = _submit("--address", head.address, "--", "doctor", "--json", "--quick", token=head.token, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"healthy": true' in done.stdout
    assert "working_dir_files" in done.stdout, "boxmed was imported from somewhere else than the folder that was sent"
    assert str(tmp_path / "runs") in done.stdout, "run folders of a local cluster belong where the user stands"


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_a_whole_run_trains_on_the_cluster_and_leaves_its_folder_here(head: Head, tmp_path: Path) -> None:
    recipe = tmp_path / "smallest.yaml"
    recipe.write_text(yaml.safe_dump({**SMALLEST, "name": "submitted"}))
    arguments = ("--address", head.address, "--", "train", "--recipe", str(recipe))
    done = _submit(*arguments, token=head.token, cwd=tmp_path, timeout=1100)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = read_summary(tmp_path / "runs" / "submitted")
    assert summary.grounding.svr is not None
    assert summary.backbone_unchanged is True


def test_a_command_that_fails_gives_its_exit_code_and_message(head: Head, tmp_path: Path) -> None:
    arguments = ("--address", head.address, "--no-check", "--", "train", "--resume", "nothing")
    done = _submit(*arguments, token=head.token, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "run 'nothing' cannot be resumed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_wrong_key_is_refused_before_the_cluster_is_asked(tmp_path: Path) -> None:
    arguments = ("--address", "192.0.2.1", "--", "train", "--recipe", "phantom-cpu", "--set", "svr.stpes=1")
    done = _submit(*arguments, token=None, cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown key 'svr.stpes'" in done.stderr


def test_what_nodes_lack_is_told_and_nothing_is_submitted(nodes: Head, tmp_path: Path) -> None:
    needs = ("--set", "resources.gpus_per_learner=1", "--set", "scorers.chexbert=/no/such/folder")
    train = ("train", "--recipe", "phantom-cpu", *needs)
    done = _submit("--address", nodes.address, "--secret", "NO_SUCH", "--", *train, token=nodes.token, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "nothing was submitted" in done.stderr
    for told in ("gpus: 1 of 2", "paths: ", "/no/such/folder", "secrets: ", "NO_SUCH"):
        assert told in done.stderr
    listed = _boxmed("jobs", "list", "--address", nodes.address, token=nodes.token, cwd=tmp_path)
    assert "boxmed-train" not in listed.stdout


def test_doctor_looks_at_every_node(nodes: Head, tmp_path: Path) -> None:
    done = _boxmed("doctor", "--remote", nodes.address, "--json", token=nodes.token, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
    assert len(checks["nodes"]["found"].split(", ")) == 2
    assert checks["runs"]["found"] == str(tmp_path / "runs")
    assert not list((tmp_path / "runs").iterdir())


def test_jobs_are_listed_read_and_stopped(head: Head, tmp_path: Path) -> None:
    recipe = tmp_path / "long.yaml"
    recipe.write_text(
        yaml.safe_dump({**SMALLEST, "name": "long", "model": {**SMALLEST["model"], "warmup_steps": 5000}})
    )
    arguments = ("--address", head.address, "--no-check", "--no-wait", "--env", "GREETING=hello")
    done = _submit(*arguments, "--", "train", "--recipe", str(recipe), token=head.token, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    job = next(line.split()[1] for line in done.stderr.splitlines() if line.startswith("job "))

    def jobs(*words: str) -> subprocess.CompletedProcess[str]:
        return _boxmed("jobs", *words, "--address", head.address, token=head.token, cwd=tmp_path)

    deadline = time.monotonic() + 200
    while "data: " not in jobs("logs", job).stdout:
        assert time.monotonic() < deadline
        time.sleep(1)
    listed = jobs("list").stdout.splitlines()
    assert any(line.startswith(job) and "running" in line and "train --recipe" in line for line in listed)
    assert jobs("status", job).returncode == 0
    stopped = jobs("stop", job)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert jobs("status", job).returncode == 1
    assert jobs("logs", "nothing").returncode == 2


@pytest.mark.parametrize(("token", "message"), [(None, "asks for a token"), ("wrong" * 8, "oken")])
def test_without_the_right_token_the_cluster_is_refused_in_one_line(
    head: Head, tmp_path: Path, token: str | None, message: str
) -> None:
    done = _submit("--address", head.address, "--", "doctor", token=token, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_the_job_running_and_attach_comes_back_to_it(head: Head, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "boxmed_ray.cli", "submit", "--address", head.address, "--", "doctor", "--quick"],
        env=_environment(head.token),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    job = next(line.split()[1] for line in process.stderr if line.startswith("job "))
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert f"--attach {job}" in rest

    done = _submit("--address", head.address, "--attach", job, token=head.token, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "boxmed" in done.stdout

    missing = _submit("--address", head.address, "--attach", "nothing", token=head.token, cwd=tmp_path)
    assert missing.returncode == 2
    assert job in missing.stderr
