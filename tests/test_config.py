"""Configuration: what is accepted, and how what is not is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from boxmed_ray.config import ConfigError, RunConfig, load_config, recipe_names, validate_config


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_shipped_recipe_is_valid_and_named_after_itself(recipe: str) -> None:
    assert load_config(recipe).name == recipe


def test_overrides_are_yaml_and_reach_nested_keys() -> None:
    config = load_config("phantom-cpu", ["svr.steps=7", "svr.rewards={iou: 2.0}", "data.skip_corrupt=true", "name=x"])
    assert (config.svr.steps, config.svr.rewards, config.data.skip_corrupt, config.name) == (7, {"iou": 2.0}, True, "x")


def test_rewards_are_routed_by_task_and_shares_are_relative() -> None:
    config = load_config("phantom-cpu", [
        "svr.tasks={grounding: 3, report: 1, joint: 0}", "svr.task_rewards={report: {bleu_2: 0.5}}",
        "mcl.report_share=0.5",
    ])  # fmt: skip
    assert config.svr.shares == {"grounding": 0.75, "report": 0.25}
    assert config.svr.routes == {"grounding": {"iou": 1.0, "format": 1.0}, "report": {"bleu_2": 0.5}}
    assert load_config("phantom-cpu").svr.routes == {"grounding": {"iou": 1.0, "format": 1.0}}


def test_a_later_override_wins_over_an_earlier_one() -> None:
    assert load_config("phantom-cpu", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("svr.stpes=1", ["svr.stpes", "unknown key", "prompts_per_step"]),
        ("svrr.steps=1", ["svrr", "unknown key", "svr"]),
        ("svr.steps=many", ["svr.steps", "'many'", "integer"]),
        ("svr.steps=0", ["svr.steps", "0", "greater than or equal to 1"]),
        ("mcl.lr=-1", ["mcl.lr", "-1", "greater than 0"]),
        ("svr.kl_kind=k4", ["svr.kl_kind", "'k4'", "'k3'"]),
        ("svr.kl_in=prompt", ["svr.kl_in", "'prompt'", "'reward'"]),
        ("svr={kl_in: reward, kl_beta: 0}", ["svr: kl_in 'reward'", "kl_beta 0", "svr.kl_in=loss"]),
        ("svr.tasks={reports: 1}", ["svr.tasks.reports", "'grounding', 'report' or 'joint'"]),
        ("svr.tasks={report: -1}", ["svr.tasks.report", "-1", "greater than or equal to 0"]),
        ("svr.tasks={report: 0}", ["svr: tasks names none", "svr.tasks={grounding: 1.0}"]),
        ("svr.tasks={report: 1}", ["svr.tasks asks for report", "mcl.report_share=0.5"]),
        ("svr.tasks={joint: 1}", ["svr.tasks asks for joint", "mcl.joint_share=0.5"]),
        ("svr.task_rewards={joint: {joint_lite: 1}}", ["svr: task_rewards", "joint", "svr.tasks={joint: 1.0}"]),
        ("mcl={report_share: 0.6, joint_share: 0.6}", ["mcl: report_share 0.6 and joint_share 0.6", "more than 1"]),
        ("svr.watch.length_band=[1.2, 2]", ["svr.watch: length_band 1.2, 2", "must hold 1"]),
        ("svr.watch.on_alarm=ring", ["svr.watch.on_alarm", "'warn' or 'stop'"]),
        ("svr.watch.evry=1", ["unknown key 'svr.watch.evry'", "every"]),
        ("svr.dual_clip=1", ["svr.dual_clip", "greater than 1"]),
        ("svr.ratio=word", ["svr.ratio", "'word'", "'sequence'"]),
        ("svr.constant_length=9", ["svr: constant_length 9", "'token'", "svr.aggregation=constant"]),
        ("svr.overlong_buffer=0", ["svr.overlong_buffer", "greater than or equal to 1"]),
        ("svr.overlong_buffer=49", ["svr: overlong_buffer 49", "svr.max_new_tokens 48"]),
        ("svr.max_draws=0", ["svr.max_draws", "greater than or equal to 1"]),
        ("svr.importance_cap=0", ["svr.importance_cap", "greater than 0"]),
        ("svr.micro_tokens=0", ["svr.micro_tokens", "greater than or equal to 1"]),
        ("svr.micro_groups=8", ["svr.micro_groups", "unknown key", "micro_tokens"]),
        ("svr.max_bad_updates=0", ["svr.max_bad_updates", "greater than or equal to 1"]),
        ("mcl.max_bad_steps=0", ["mcl.max_bad_steps", "greater than or equal to 1"]),
        ("data.image_size=113", ["data.image_size", "113", "multiple of 28"]),
        ("name=../elsewhere", ["name", "'../elsewhere'"]),
        ("data.kind=nih", ["data", "data.root", "--set data.root=DIR"]),
        (
            "svr.train={language_model: false, projector: false, vision_tower: false}",
            ["svr.train", "language_model, projector and vision_tower are all false", "set lora"],
        ),
        ("mcl.train.lora={parts: []}", ["mcl.train.lora.parts", "at least 1"]),
        ("mcl.train.lora={parts: [head]}", ["mcl.train.lora.parts", "'head'", "'vision_tower'"]),
        ("svr.train.lora={r: 8}", ["unknown key 'svr.train.lora.r'", "rank, alpha, dropout, parts"]),
        ("svr.train.lora.dropout=0.1", ["svr", "train.lora.dropout = 0.1", "set it to 0"]),
        ("svr.push=carrier", ["svr.push", "'carrier'", "'object_store'"]),
        ("svr.push=lora", ["svr: push 'lora'", "svr.train.projector=false", "svr.push=auto"]),
        ("svr={push: lora, train: {lora: {}, vision_tower: false}}", ["svr: push 'lora'", "projector"]),
        ("svr.reference_device=gpu", ["svr.reference_device", "'gpu'", "'cpu'"]),
        ("steps", ["key=value"]),
        ("=3", ["key=value"]),
        ("seed.low=1", ["seed"]),
        ("seed=[1", ["seed=[1"]),
    ],
)
def test_a_bad_override_is_refused_with_key_value_and_remedy(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("phantom-cpu", [override] if override != "seed.low=1" else ["seed=1", override])
    for part in parts:
        assert part in str(error.value)


def test_everything_trains_by_default_and_lora_alone_may_train() -> None:
    config = load_config("phantom-cpu", ["svr.train={language_model: false, projector: false, vision_tower: false,"
                                         " lora: {rank: 4}}"])  # fmt: skip
    assert config.svr.train.lora is not None
    assert (config.svr.train.lora.rank, config.svr.train.lora.parts) == (4, ("language_model",))
    assert config.mcl.train.model_dump() == dict.fromkeys(("language_model", "projector", "vision_tower"), True) | {
        "lora": None
    }


@pytest.mark.parametrize(
    ("override", "rank"),
    [
        ("svr.train={projector: false, vision_tower: false, lora: {rank: 4}}", 4),
        ("svr={push: lora, train: {projector: false, vision_tower: false, lora: {rank: 4}}}", 4),
        ("svr={push: shm, train: {projector: false, vision_tower: false, lora: {rank: 4}}}", 0),
        ("svr.train={vision_tower: false, lora: {rank: 4}}", 0),
        ("svr.train={projector: false, vision_tower: false, lora: {parts: [language_model, projector]}}", 0),
        ("svr.train={projector: false, vision_tower: false}", 0),
    ],
)
def test_rollout_workers_are_started_for_adapters_where_an_adapter_is_all_that_trains(override: str, rank: int) -> None:
    assert load_config("phantom-cpu", [override]).svr.adapter_rank == rank


def test_for_comparison_the_adapter_stage_trains_parts_of_the_backbone() -> None:
    vision = load_config("phantom-cpu", ["adapter.lora=false", "adapter.train_also=[vision_tower]"]).adapter.train
    assert (vision.lora, vision.vision_tower, vision.projector, vision.language_model) == (None, True, False, False)
    beside = load_config("phantom-cpu", ["adapter.train_also=[projector]"]).adapter.train
    assert beside.projector
    assert beside.lora is not None
    assert not beside.adapter_alone


@pytest.mark.parametrize(
    ("override", "words"),
    [("adapter.lora=false", "nothing would train"), ("adapter.train_also=[language_model]", "set lora=false")],
)
def test_an_adapter_stage_that_contradicts_itself_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config("phantom-cpu", [override])


def test_the_adapter_stage_is_lora_on_the_language_model_alone() -> None:
    train = load_config("phantom-cpu", ["adapter.rank=4", "adapter.alpha=12", "adapter.dropout=0.1"]).adapter.train
    assert train.model_dump() == dict.fromkeys(("language_model", "projector", "vision_tower"), False) | {
        "lora": {"rank": 4, "alpha": 12, "dropout": 0.1, "parts": ("language_model",)}
    }


def test_several_mistakes_are_all_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load_config("phantom-cpu", ["svr.stpes=1", "mcl.lr=fast"])
    assert "svr.stpes" in str(error.value)
    assert "mcl.lr" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", "not readable as YAML"), ("- 1\n- 2", "must be a mapping"), ("nam: x", "unknown key 'nam'")],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(str(path))
    assert str(path) in str(error.value)


def test_an_unknown_recipe_and_a_missing_file_name_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="phantom-cpu"):
        load_config("phantom")
    with pytest.raises(ConfigError, match="no such file"):
        load_config(str(tmp_path / "absent.yaml"))


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load_config(str(path)) == RunConfig()


def test_a_resolved_config_reads_back_as_itself() -> None:
    config = load_config("phantom-cpu", ["svr.steps=7", "seed=3"])
    assert validate_config(config.model_dump(mode="json"), "config.yaml") == config


def test_every_key_says_what_it_means() -> None:
    def undocumented(model: type[BaseModel], prefix: str) -> list[str]:
        found = []
        for key, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += undocumented(kind, f"{prefix}{key}.")
            elif not field.description:
                found.append(prefix + key)
        return found

    assert undocumented(RunConfig, "") == []


def test_reading_a_config_imports_nothing_heavy() -> None:
    code = (
        "import sys; from boxmed_ray.config import load_config; load_config('phantom-cpu'); "
        "print(sorted({'torch', 'ray', 'vllm', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_choices_of_the_loss_may_be_switched_off_and_draws_follow_dynamic_sampling() -> None:
    svr = load_config("phantom-cpu", ["svr.importance_cap=null", "svr.dual_clip=null", "svr.max_draws=4"]).svr
    assert (svr.importance_cap, svr.dual_clip, svr.draws) == (None, None, 32)
    assert load_config("phantom-cpu", ["svr.dynamic_sampling=true", "svr.max_draws=4"]).svr.draws == 128


@pytest.mark.parametrize(
    ("runs_dir", "folder"),
    [
        ("out/runs", "out/runs/mine"),
        ("/data/runs", "/data/runs/mine"),
        ("s3://bucket/a/b", "runs/s3/bucket/a/b/mine"),
        ("s3://bucket/a?region=eu-west-1&scheme=http", "runs/s3/bucket/a/mine"),
        ("hdfs://user@host:8020/a/../b", "runs/hdfs/host/8020/a/b/mine"),
        ("file:///data/runs/", "runs/file/data/runs/mine"),
        ("fsspec+memory://a", "runs/fsspec+memory/a/mine"),
    ],
)
def test_a_run_is_worked_on_where_runs_dir_says_or_below_work_dir_for_a_uri(runs_dir: str, folder: str) -> None:
    assert load_config("phantom-cpu", ["name=mine", f"runs_dir='{runs_dir}'"]).folder == Path(folder)
    assert RunConfig(name="mine", runs_dir=Path("out/runs")).folder == Path("out/runs/mine")


@pytest.mark.parametrize("stage", ["mcl", "adapter"])
def test_more_train_workers_than_examples_of_a_batch_are_refused(stage: str) -> None:
    more = [f"{stage}.batch_size=4", "resources.train_workers=5"]
    with pytest.raises(ConfigError, match=f"{stage}.batch_size 4 .* set resources.train_workers=4"):
        load_config("phantom-cpu", more)
    assert load_config("phantom-cpu", [*more[:1], "resources.train_workers=4"]).resources.train_workers == 4
