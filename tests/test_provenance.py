"""Every start of a run says what it was made with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest

from boxmed_ray import __version__
from boxmed_ray.provenance import COMMIT, FILE, commit, record


def test_a_line_for_every_start(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    record(tmp_path, "abc", [{"host": "n1", "resources": {"CPU": 2}}])
    record(tmp_path, "abc")
    first, second = (json.loads(line) for line in (tmp_path / FILE).read_text().splitlines())
    assert first["boxmed"] == second["boxmed"] == __version__
    assert first["config"] == hashlib.sha256(b"seed: 1\n").hexdigest()
    assert first["data"] == "abc"
    assert first["nodes"][0]["host"] == "n1"
    assert first["packages"]["torch"] == importlib.metadata.version("torch")
    assert {"numpy", "ray", "transformers", "deepspeed"} <= set(first["packages"])
    assert first["hardware"]["cores"] >= 1
    assert first["hardware"]["memory_gb"] > 0


def test_the_commit_is_gits_and_changes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMIT, raising=False)
    here = Path(__file__).parent
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    found = commit()
    if done.returncode:
        assert found is None
    else:
        assert found is not None
        assert found.removesuffix("+changes") == done.stdout.strip()


def test_a_submitted_folder_has_the_commit_that_it_was_sent_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT, "deadbeef+changes")
    assert commit() == "deadbeef+changes"


def test_code_in_another_projects_repository_has_no_commit_of_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(COMMIT, raising=False)
    installed = tmp_path / ".venv"
    (installed / "boxmed_ray").mkdir(parents=True)
    (installed / "boxmed_ray" / "cli.py").touch()
    (tmp_path / "theirs.py").touch()
    as_one = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "theirs.py"], [*as_one, "commit", "-q", "-m", "theirs"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert commit(installed) is None
    subprocess.run(["git", "add", "-f", "."], cwd=tmp_path, check=True)
    assert str(commit(installed)).endswith("+changes")
