"""Variants of a config, what of their stages is the same, and taking over what another run has done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from boxmed_ray.ablation import QUICK, TITLES, done_stages, plan, rows_of, stage_keys, take_over
from boxmed_ray.config import ConfigError, RunConfig, load_config

ALL = list(TITLES)


def config(tmp_path: Path | None = None, **update: Any) -> RunConfig:
    runs = {} if tmp_path is None else {"runs_dir": str(tmp_path / "runs")}
    return RunConfig.model_validate(runs | update)


def finished(run: RunConfig, *stages: str) -> Path:
    """A run folder in which stages are done, with what they leave."""
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(yaml.safe_dump(run.model_dump(mode="json")))
    (run.folder / "data" / "images").mkdir(parents=True)
    (run.folder / "data" / "images" / "a.png").write_text("pixels")
    (run.folder / "evaluation").mkdir()
    with (run.folder / "metrics.jsonl").open("w") as metrics:
        for stage in stages:
            folder = run.folder / "stages" / stage
            (folder / "model").mkdir(parents=True)
            (folder / "checkpoints").mkdir()
            (folder / "model" / "model.safetensors").write_text(f"{run.name} {stage}")
            (folder / "done.json").write_text("{}")
            (run.folder / "evaluation" / f"{stage}.jsonl").write_text(f"{stage}\n")
            metrics.write(json.dumps({"stage": stage, "step": 1}) + "\n")
    return run.folder


def named(runs: list[Any]) -> dict[str, RunConfig]:
    return {run.variant: run.config for run in runs}


def test_the_tables_have_the_papers_rows_and_each_run_is_made_once() -> None:
    runs = plan(config(), ALL, [0, 1])
    assert len(runs) == 2 * (1 + 3 + 4 + 3)
    assert len({run.config.name for run in runs}) == len(runs)
    assert runs[0].variant == "full"
    assert {run.config.seed for run in runs} == {0, 1}
    assert runs[0].conditions == ("off", "on", "merged")
    assert [row.words for row in rows_of("4", config())] == ["w/o MCL & SVR", "w/o SVR", "w/o MCL", "BoxMed-RL"]


def test_variants_skip_stages_and_train_what_their_rows_say() -> None:
    variants = named(plan(config(), ALL, [0]))
    assert variants["no-mcl-svr"].skip == ("mcl", "svr")
    assert variants["no-mcl"].skip == ("mcl",)
    assert variants["full"].skip == ()
    trained = {name: variants[name].adapter.train for name in ("vision", "projector-lora", "full-tuning")}
    assert (trained["vision"].vision_tower, trained["vision"].projector, trained["vision"].lora) == (True, False, None)
    assert trained["projector-lora"].projector
    assert trained["projector-lora"].lora is not None
    assert not trained["projector-lora"].vision_tower
    full = trained["full-tuning"]
    assert full.language_model and full.projector and full.vision_tower and full.lora is None  # noqa: PT018
    # LoRA's product is scaled by alpha / r, which stays.
    ranks = {name: variants[name].adapter for name in ("rank-4", "rank-16")}
    assert {(a.rank, a.alpha) for a in ranks.values()} == {(4, 8), (16, 32)}


def test_parts_of_the_backbone_never_learn_faster_than_in_mcl() -> None:
    base = config(mcl={"lr": 1e-4}, adapter={"lr": 1e-2})
    variants = named(plan(base, ALL, [0]))
    assert variants["vision-lora"].adapter.lr == 1e-4
    assert variants["rank-4"].adapter.lr == 1e-2


def test_the_configs_own_rank_is_the_reference() -> None:
    assert "rank-8" not in named(plan(config(), ["adapters"], [0]))
    other = config(adapter={"rank": 4, "alpha": 8})
    assert {"rank-8", "rank-16"} <= named(plan(other, ["adapters"], [0])).keys()
    assert "rank-4" not in {row.variant for row in rows_of("adapters", other)}


def test_a_config_that_is_a_variant_itself_is_refused() -> None:
    for update in ({"skip": ["svr"]}, {"adapter": {"train_also": ["projector"]}}):
        with pytest.raises(ConfigError, match="ablation varies"):
            plan(config(**update), ["4"], [0])


def test_variants_share_what_comes_before_their_difference() -> None:
    keys = {name: stage_keys(variant) for name, variant in named(plan(config(), ALL, [0])).items()}
    assert keys["no-svr"] == {stage: keys["full"][stage] for stage in ("init", "mcl")}
    assert keys["no-mcl"]["init"] == keys["full"]["init"]
    assert keys["no-mcl"]["svr"] != keys["full"]["svr"]
    assert keys["rank-4"] == keys["vision"] == keys["full"]
    assert len(set(keys["full"].values())) == 3


@pytest.mark.parametrize(
    "update", [{"seed": 1}, {"data": {"train_studies": 9}}, {"model": {"layers": 2}}, {"mcl": {"steps": 2}}]
)
def test_what_decides_a_stage_is_in_its_key(update: dict[str, Any]) -> None:
    assert stage_keys(config(**update))["mcl"] != stage_keys(config())["mcl"]


def test_where_a_run_runs_and_what_comes_later_is_not_in_its_key() -> None:
    other = config(name="x", resources={"learner_ranks": 1}, svr={"steps": 3}, adapter={"steps": 2})
    assert stage_keys(other)["mcl"] == stage_keys(config())["mcl"]
    assert stage_keys(other)["svr"] != stage_keys(config())["svr"]


def test_finished_stages_are_taken_over_with_their_records_and_curves(tmp_path: Path) -> None:
    variants = named(plan(config(tmp_path), ["4"], [0]))
    done = finished(variants["full"], "init", "mcl", "svr")
    assert set(done_stages(done)) == set(stage_keys(variants["full"]).values())
    ours = variants["no-svr"]
    assert take_over(ours, [tmp_path / "nothing", done]) == ["init", "mcl"]
    assert (ours.folder / "stages/mcl/model/model.safetensors").read_text() == "full-s0 mcl"
    assert (ours.folder / "data/images/a.png").read_text() == "pixels"
    assert (ours.folder / "evaluation/mcl.jsonl").read_text() == "mcl\n"
    assert not (ours.folder / "stages/svr").exists()
    assert not (ours.folder / "stages/mcl/checkpoints").exists()
    stages = [json.loads(line)["stage"] for line in (ours.folder / "metrics.jsonl").read_text().splitlines()]
    assert stages == ["init", "mcl"]
    assert take_over(ours, [done]) == []


def test_a_stage_of_its_own_is_never_replaced_and_an_unfinished_one_not_taken(tmp_path: Path) -> None:
    variants = named(plan(config(tmp_path), ["4"], [0]))
    done = finished(variants["full"], "init", "mcl")
    (done / "stages/mcl/done.json").unlink()
    own = finished(variants["no-svr"], "init")
    assert take_over(variants["no-svr"], [done]) == []
    assert (own / "stages/init/model/model.safetensors").read_text() == "no-svr-s0 init"


def test_what_was_taken_over_outlives_the_run_it_came_from(tmp_path: Path) -> None:
    variants = named(plan(config(tmp_path), ["4"], [0]))
    done = finished(variants["full"], "init")
    take_over(variants["no-mcl"], [done])
    (done / "stages/init/model/model.safetensors").unlink()
    assert (variants["no-mcl"].folder / "stages/init/model/model.safetensors").read_text() == "full-s0 init"


def test_the_quick_sizes_fit_the_phantom_recipe() -> None:
    assert load_config("phantom-cpu", QUICK).svr.steps == 2
