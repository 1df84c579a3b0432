from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from boxmed_ray.config import ConfigError, RunConfig
from serve.artifacts import load_artifacts


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The files of a finished run, without weights worth loading."""
    folder = tmp_path / "renamed"
    model, adapter = folder / "stages/svr/model", folder / "stages/adapter/adapter"
    model.mkdir(parents=True)
    adapter.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(RunConfig(name="original").model_dump(mode="json")))
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "model.safetensors"):
        (model / name).write_text("{}")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 8}))
    (adapter / "adapter_model.safetensors").write_text("weights")
    return folder


def test_a_finished_run_is_accepted_under_the_name_of_its_folder(finished: Path) -> None:
    artifacts = load_artifacts(finished)
    assert (artifacts.config.name, artifacts.adapters[0].rank, artifacts.weight_version) == ("renamed", 8, None)
    assert artifacts.backbone == finished / "stages/svr/model"


def test_versions_follow_the_weights(finished: Path) -> None:
    before = load_artifacts(finished)
    (finished / "stages/adapter/adapter/adapter_model.safetensors").write_text("other weights")
    after = load_artifacts(finished)
    assert after.adapters[0].version != before.adapters[0].version
    assert after.backbone_version == before.backbone_version


def test_the_weight_version_is_that_of_the_last_update(finished: Path) -> None:
    lines = [{"stage": "mcl", "weight_version": None}, {"stage": "svr", "weight_version": 59}]
    lines += [{"stage": "svr", "weight_version": 60}, {"stage": "adapter", "weight_version": 7}]
    (finished / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load_artifacts(finished).weight_version == 60


@pytest.mark.parametrize(
    "missing",
    [
        "config.yaml",
        "stages/svr/model/config.json",
        "stages/svr/model/model.safetensors",
        "stages/svr/model/tokenizer_config.json",
        "stages/svr/model/processor_config.json",
        "stages/adapter/adapter/adapter_config.json",
        "stages/adapter/adapter/adapter_model.safetensors",
    ],
)
def test_an_unfinished_run_is_refused_by_the_name_of_what_is_missing(finished: Path, missing: str) -> None:
    (finished / missing).unlink()
    with pytest.raises(ConfigError, match=missing):
        load_artifacts(finished)


def test_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such run folder"):
        load_artifacts(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", "a: [", "config.yaml: not readable as YAML"),
        ("config.yaml", "- a", "config.yaml: must be a mapping"),
        ("config.yaml", "nonsense: 1", "unknown key 'nonsense'"),
        ("stages/adapter/adapter/adapter_config.json", "{", "adapter_config.json: not readable as JSON"),
        ("stages/adapter/adapter/adapter_config.json", "{}", "r = None"),
    ],
)
def test_a_damaged_file_is_refused_by_name(finished: Path, file: str, content: str, message: str) -> None:
    (finished / file).write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_artifacts(finished)
