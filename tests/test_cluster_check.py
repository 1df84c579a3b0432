"""What a cluster is said to lack, by what its nodes answer; a real one is in integration/test_submit.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boxmed_ray.cluster_check import Wanted, judge, look, problems, read_checks, wanted
from boxmed_ray.config import ConfigError, load_config
from boxmed_ray.submit import variables

WANTED = Wanted({"torch": "2.13.0"}, "3.11", gpus=8, paths=("/data",), secrets=("WANDB_API_KEY",), runs_dir="/runs")
GOOD = {
    "host": "n1", "python": "3.11", "versions": {"torch": "2.13.0"}, "vllm": True, "shm": 8e9, "paths": [],
    "secrets": [], "mark": True,
}  # fmt: skip


def lacking(*nodes: dict[str, Any], gpus: float = 8, grows: bool = False) -> list[str]:
    return list(problems(judge(nodes, WANTED, gpus=gpus, grows=grows, runs_dir="/runs")))


def test_a_cluster_that_has_everything_lacks_nothing() -> None:
    assert lacking(GOOD, GOOD | {"host": "n2"}) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"python": "3.12"}, "python: n2: Python 3.12, here 3.11"),
        ({"versions": {"torch": "2.12.0"}}, "python: n2: torch 2.12.0, here 2.13.0"),
        ({"versions": {"torch": None}}, "python: n2: torch missing"),
        ({"vllm": False}, "vllm: n2: not installed"),
        ({"shm": 64e6}, "/dev/shm: n2: 0.1 GB"),
        ({"paths": ["/data"]}, "paths: n2: /data; mount"),
        ({"secrets": ["WANDB_API_KEY"]}, "secrets: n2: WANDB_API_KEY"),
        ({"mark": False}, "runs: n2: /runs is another folder"),
    ],
)
def test_what_one_node_lacks_is_told_with_its_name_and_a_remedy(change: dict[str, Any], told: str) -> None:
    (found,) = lacking(GOOD, GOOD | {"host": "n2"} | change)
    assert found.startswith(told)
    assert "; " in found


def test_too_few_gpus_are_refused_unless_nodes_can_be_added() -> None:
    (found,) = lacking(GOOD, gpus=4)
    assert found.startswith("gpus: 4 of 8")
    assert lacking(GOOD, gpus=0, grows=True) == []


def test_a_node_looks_at_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET", "1")
    monkeypatch.delenv("UNSET", raising=False)
    asked = Wanted({"torch": "x", "no-such-package": "1"}, paths=(str(tmp_path), "/nowhere"), secrets=("SET", "UNSET"))
    found = look(asked, str(tmp_path / "mark"))
    assert found["versions"]["no-such-package"] is None
    assert (found["paths"], found["secrets"], found["mark"]) == (["/nowhere"], ["UNSET"], False)


def test_a_recipe_says_what_it_needs() -> None:
    asked = wanted(load_config("radvlm-qwen3-vl-8b", ["data.root=/data/radvlm", "scorers.chexbert=/models/chexbert"]))
    assert asked.gpus == 16
    assert asked.paths == ("/data/radvlm", "/models/chexbert")
    assert {"torch", "ray", "deepspeed"} <= set(asked.packages)
    assert wanted(load_config("phantom-cpu")).gpus == 0


def test_data_that_a_recipe_names_by_a_relative_path_is_looked_for_too() -> None:
    assert wanted(load_config("boxmed-qwen2-vl-2b")).paths == ("mimic-cxr",)


def test_a_log_without_checks_is_an_error() -> None:
    with pytest.raises(ValueError, match="boom"):
        read_checks("Traceback\nboom\n")


def test_variables_are_sent_by_name_and_secrets_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY", "http://proxy")
    assert variables(["PROXY", "A=1=2"]) == {"PROXY": "http://proxy", "A": "1=2"}
    assert variables(["TOKENIZERS_PARALLELISM=false"]) == {"TOKENIZERS_PARALLELISM": "false"}
    with pytest.raises(ConfigError, match="--env MLFLOW_TRACKING_URI: its value has a password") as refused:
        variables(["MLFLOW_TRACKING_URI=https://me:hunter2@mlflow.example"])
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ConfigError, match="--secret HF_TOKEN"):
        variables(["HF_TOKEN=abc"])
    with pytest.raises(ConfigError, match="not set here"):
        variables(["NOT_SET_ANYWHERE"])
