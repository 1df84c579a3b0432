"""The images' files: linted, closed to what must not get in, and their install step run in an empty environment.

No container engine is needed: what a build would do is done in folders.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
DOCKER = REPO / "docker"
FILES = sorted(DOCKER.glob("Dockerfile.*"))
MODULES = ("boxmed_ray", "rewards", "serve")


def hadolint() -> str:
    beside = Path(sys.executable).with_name("hadolint")
    found = str(beside) if beside.is_file() else shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not here; make setup installs it")
    return found


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instruction and argument, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def copied(path: Path) -> list[str]:
    """What the build takes from the project folder."""
    copies = [rest.split() for word, rest in instructions(path) if word == "COPY" and "--from" not in rest]
    return [source for words in copies for source in words[:-1]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_lint_has_nothing_to_say(path: Path) -> None:
    done = subprocess.run([hadolint(), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_images_are_pinned_built_in_stages_unprivileged_and_checked(path: Path) -> None:
    found = instructions(path)
    bases = [rest.split()[0] for word, rest in found if word == "FROM"]
    assert len(bases) == 2
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases)
    assert [rest for word, rest in found if word == "USER"] == ["1000:1000"]
    assert [word for word, _ in found].index("USER") > [word for word, _ in found].index("RUN")
    assert any(word == "HEALTHCHECK" for word, _ in found)
    last = [word for word, _ in found]
    assert "ADD" not in last
    assert not any(part.startswith("/") for part in copied(path))


def test_both_images_differ_in_what_a_gpu_needs_only() -> None:
    cpu, gpu = (instructions(DOCKER / f"Dockerfile.{kind}") for kind in ("cpu", "gpu"))
    differing = [one[0] for one, other in zip(cpu, gpu, strict=True) if one != other]
    assert differing == ["RUN", "RUN", "ENV"]


def test_nothing_but_code_is_sent_to_a_build() -> None:
    lines = (REPO / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert allowed == {source.removeprefix("./") for source in copied(DOCKER / "Dockerfile.cpu")}
    tracked = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split()
    weights = [name for name in tracked if Path(name).suffix in {".safetensors", ".pth", ".bin", ".pt", ".ckpt"}]
    assert not weights


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_install_step_works_in_an_empty_environment(tmp_path: Path) -> None:
    """The CPU image's; the GPU one's differs in the extra that it names."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.is_file() and shutil.which("uv") is None:
        pytest.skip("uv is not here")
    build, folder = tmp_path / "build", tmp_path / "opt"
    build.mkdir()
    for source in copied(DOCKER / "Dockerfile.cpu"):
        place = REPO / source
        if place.is_dir():
            shutil.copytree(place, build / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, build / Path(source).name)
    tools = [str(uv.parent)] if uv.is_file() else []
    # PYTHONPATH of the tests would bring the project in by the back door.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env["PATH"] = ":".join([*tools, os.environ["PATH"]])
    install = ["bash", "install.sh", str(folder), "cpu"]
    done = subprocess.run(install, cwd=build, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(build)  # not in the image

    code = (
        "import importlib, json, pkgutil\n"
        f"names = [m.name for package in {MODULES!r} for m in "
        "pkgutil.walk_packages(importlib.import_module(package).__path__, package + '.')]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "from boxmed_ray.config import load_config, recipe_names\n"
        "[load_config(name) for name in recipe_names()]\n"
        "from boxmed_ray.model.architecture import published_names\n"
        "import boxmed_ray, mlflow, tensorboard, wandb, vllm\n"
        "print(json.dumps([boxmed_ray.__file__, len(names), recipe_names(), published_names()]))\n"
    )
    python = folder / "bin" / "python"
    clean = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    where, count, recipes, sizes = json.loads(done.stdout.splitlines()[-1])
    assert where.startswith(str(folder))
    assert count > 100
    assert "boxmed-qwen2-vl-2b" in recipes
    assert len(sizes) == 2

    version = subprocess.run(
        [folder / "bin" / "boxmed", "--version"], env=clean, capture_output=True, text=True, check=False
    )
    assert version.returncode == 0, version.stderr
