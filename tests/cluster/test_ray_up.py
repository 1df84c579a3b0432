"""`ray up` files against Ray's own schema, filled with its defaults as `ray up` fills them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.manifests import CLUSTER

FILES = sorted((CLUSTER / "ray-up").glob("*.yaml"))
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
_PROVIDER = set(SCHEMA["properties"]["provider"]["properties"])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of machines leaves a state file in Ray's temporary folder."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def check(config: dict[str, Any]) -> None:
    """As `ray up` does, and the provider's keys too, which Ray's schema leaves open."""
    unknown = set(config["provider"]) - _PROVIDER
    if unknown:
        raise jsonschema.ValidationError(f"provider has {sorted(unknown)}")
    validate_config(prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_takes_the_file(path: Path) -> None:
    check(yaml.safe_load(path.read_text()))


def spelt(config: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Keys that Ray's schema knows."""
    for key, value in config.items():
        yield (key,)
        if key in ("provider", "auth", "docker"):
            yield from ((key, inner) for inner in value)
        if key == "available_node_types":
            yield from ((key, name, inner) for name, node in value.items() for inner in node)
            yield from (
                (key, name, "docker", inner) for name, node in value.items() for inner in node.get("docker", ())
            )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_any_misspelt_key_is_found(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    missed = []
    for keys in spelt(config):
        wrong = copy.deepcopy(config)
        node = wrong
        for part in keys[:-1]:
            node = node[part]
        node[f"{keys[-1]}x"] = node.pop(keys[-1])
        try:
            check(wrong)
        except Exception:
            continue
        missed.append(keys)
    assert not missed


def test_containers_have_what_ray_up_needs_of_them() -> None:
    text = (CLUSTER / "ray-up" / "aws.yaml").read_text()
    # Ray takes its token from the home folder of the container's user, and copies its own files in with rsync.
    assert list(yaml.safe_load(text)["file_mounts"]) == ["/home/boxmed/.ray/auth_token"]
    for kind in ("cpu", "gpu"):
        image = (CLUSTER.parent / "docker" / f"Dockerfile.{kind}").read_text()
        (installed,) = (line.split() for line in image.splitlines() if "apt-get install" in line)
        assert "rsync" in installed
        assert "--create-home --shell /bin/bash boxmed" in image


def test_the_clouds_nodes_have_what_the_real_recipes_ask_for() -> None:
    from boxmed_ray.config import load_config

    nodes = yaml.safe_load((CLUSTER / "ray-up" / "aws.yaml").read_text())["available_node_types"]
    gpus = sum(node.get("max_workers", 0) * node["resources"].get("GPU", 0) for node in nodes.values())
    for recipe in ("boxmed-qwen2-vl-2b", "radvlm-qwen3-vl-8b"):
        assert gpus >= load_config(recipe).resources.gpus
    assert nodes["head"]["resources"]["CPU"] == 0
