"""`boxmed evaluate` and `boxmed compare`: which model is meant, and plain errors before anything heavy starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxmed_ray import cli
from boxmed_ray.commands.evaluate import find_subject
from boxmed_ray.config import ConfigError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    for stage in ("mcl", "svr"):
        (folder / "stages" / stage / "model").mkdir(parents=True)
        (folder / "stages" / stage / "model" / "config.json").write_text("{}")
        (folder / "stages" / stage / "done.json").write_text("{}")
    (folder / "stages" / "adapter" / "adapter").mkdir(parents=True)
    (folder / "config.yaml").write_text("name: demo\nseed: 4\n")
    return folder


def test_a_run_means_its_newest_model_and_its_adapter(run: Path):
    subject = find_subject(run, None, ["evaluate.images=3"], None)
    assert (subject.name, subject.model) == ("demo", run / "stages/svr/model")
    assert subject.adapter == run / "stages/adapter/adapter"
    assert (subject.config.evaluate.images, subject.config.seed, subject.own_data) == (3, 4, True)
    (run / "stages/svr/done.json").unlink()
    assert find_subject(run, None, [], None).model == run / "stages/mcl/model"


def test_a_model_in_a_run_takes_the_runs_config_and_no_adapter(run: Path):
    subject = find_subject(run / "stages/mcl/model", None, [], None)
    assert (subject.name, subject.run, subject.adapter) == ("demo-mcl", run, None)
    assert subject.config.seed == 4


@pytest.mark.parametrize("override", ["data.image_size=56", "seed=5"])
def test_other_data_are_not_those_of_the_run(run: Path, override: str):
    assert not find_subject(run, None, [override], None).own_data


def test_a_model_outside_of_any_run_takes_a_recipe(tmp_path: Path):
    model = tmp_path / "qwen"
    model.mkdir()
    (model / "config.json").write_text("{}")
    subject = find_subject(model, Path("lora"), ["data.test_studies=8"], "phantom-cpu")
    assert (subject.name, subject.run, subject.adapter) == ("qwen", None, Path("lora"))
    assert subject.config.data.test_studies == 8


def test_what_cannot_be_meant_is_refused(run: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="neither a run folder"):
        find_subject(tmp_path, None, [], None)
    with pytest.raises(ConfigError, match="neither a run folder"):
        find_subject(run / "stages", None, [], None)
    with pytest.raises(ConfigError, match="has a configuration of its own"):
        find_subject(run, None, [], "phantom-cpu")
    for stage in ("mcl", "svr"):
        (run / "stages" / stage / "done.json").unlink()
    with pytest.raises(ConfigError, match="--resume demo"):
        find_subject(run, None, [], None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "{run}", "--out", "{out}"], "holds an evaluation"),
        (["evaluate", "{run}", "--adapter", "{out}"], "no adapter_config.json"),
        (["evaluate", "{run}", "--set", "evaluate.imagse=3"], "unknown key"),
        (["compare", "{run}", "{out}"], "no evaluation.json in it"),
    ],
)
def test_errors_are_one_message_and_exit_2(
    run: Path, tmp_path: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    (out / "evaluation.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["boxmed", *(word.format(run=run, out=out) for word in arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    printed = capsys.readouterr().err
    assert exit_.value.code == 2
    assert words in printed
    assert "Traceback" not in printed
