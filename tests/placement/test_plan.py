"""Plans of the real recipes on 1, 4, 8 and 16 GPUs, and what is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from boxmed_ray.commands.plan import plan as plan_command
from boxmed_ray.commands.plan import refuse_what_cannot_fit, stated_plan
from boxmed_ray.config import ConfigError, RunConfig, load_config
from boxmed_ray.placement.plan import Plan, Trained
from boxmed_ray.placement.search import changed, lay_out, with_lora

TWO, EIGHT = "boxmed-qwen2-vl-2b", "radvlm-qwen3-vl-8b"


@cache
def stated(recipe: str) -> tuple[Plan, Trained]:
    return stated_plan(load_config(recipe))


@pytest.mark.parametrize(("recipe", "gpus"), [(TWO, 8), (EIGHT, 16)])
def test_the_recipes_fit_as_they_state_it(recipe: str, gpus: int) -> None:
    plan, _ = stated(recipe)
    assert plan.fits, plan.problems
    assert plan.gpus == gpus
    assert not lay_out(plan, stated(recipe)[1], gpus).changes


@pytest.mark.parametrize(
    ("recipe", "gpus", "fits"),
    [(TWO, 1, True), (TWO, 4, True), (TWO, 16, True), (EIGHT, 1, False), (EIGHT, 4, True), (EIGHT, 8, True)],
)
def test_a_run_is_laid_out_on_other_numbers_of_gpus(recipe: str, gpus: int, fits: bool) -> None:
    plan, trained = stated(recipe)
    found = lay_out(plan, trained, gpus)
    assert found.plan.fits is fits
    resources = found.plan.config.resources
    assert resources.gpus == gpus
    assert resources.train_workers == min(gpus, found.plan.config.mcl.batch_size)
    assert resources.colocated is (gpus == 1)
    for use in found.plan.uses:
        assert (use.size <= use.limit) or not fits


def test_what_is_learned_stays_as_it_is() -> None:
    plan, trained = stated(EIGHT)
    placed = lay_out(plan, trained, 4).plan.config
    kept = ("prompts_per_step", "group_size", "lr", "kl_beta", "rewards", "train", "max_new_tokens", "epochs")
    assert all(getattr(placed.svr, name) == getattr(plan.config.svr, name) for name in kept)
    assert placed.mcl.batch_size == plan.config.mcl.batch_size


def test_printed_options_give_the_plan_that_was_printed() -> None:
    plan, trained = stated(EIGHT)
    for found in (lay_out(plan, trained, 4), with_lora(plan, trained, 1)):
        assert found is not None
        options = [part.replace("'", "").strip() for part in found.options.split("--set ")[1:]]
        assert load_config(EIGHT, options) == found.plan.config


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"resources.gpu_memory_gb": 24}, "SVR learner rank: "),
        ({"model.max_length": 1000}, "too short: image 625 [+] text 128 [+] response 256 = 1009"),
        ({"resources.kv_cache_gb": 0.05}, "does not hold one group"),
        ({"resources.gpus_per_rollout": 5, "resources.rollout_workers": 1}, "12 attention heads"),
    ],
)
def test_what_cannot_run_is_named_with_its_arithmetic(changes: dict[str, Any], problem: str) -> None:
    config = changed(load_config(TWO), changes)
    plan, _ = stated_plan(config)
    assert not plan.fits
    with pytest.raises(ConfigError, match=problem):
        refuse_what_cannot_fit(config)


def test_a_run_without_gpus_needs_no_plan(capsys: pytest.CaptureFixture[str]) -> None:
    refuse_what_cannot_fit(RunConfig())
    assert capsys.readouterr().err == ""


def test_parts_of_a_gpu_have_parts_of_its_memory() -> None:
    shares = {"resources.gpus_per_learner": 0.5, "resources.gpus_per_rollout": 0.5}
    plan, _ = stated_plan(changed(load_config(TWO), shares))
    assert {use.limit for use in plan.uses} == {38_000_000_000}


def test_the_command_ends_with_2_and_says_what_would_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_command(TWO, [], 8) == 0
    assert "5 ranks x 1 GPU, ZeRO 2" in capsys.readouterr().out
    assert plan_command(EIGHT, [], 1) == 2
    told = capsys.readouterr().err
    assert "12 B (float32 copy" not in told
    assert "does not fit on 1 GPU of 80 GB" in told
    assert "optimiser 105.2" in told  # 12 bytes x 8.767 B on one rank
    assert "LoRA on the language model" in told
    assert "the same run on 4 GPUs: --set resources.learner_ranks=3" in told


def test_a_recipe_for_cpus_is_planned_only_when_gpus_are_named() -> None:
    with pytest.raises(ConfigError, match="--gpus N"):
        plan_command("phantom-cpu", [], None)
    assert plan_command("phantom-cpu", [], 2) == 0
