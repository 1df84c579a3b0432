"""`boxmed plan`: where a run's parts would go on GPUs, whether they fit, and what would."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import TextIO

from boxmed_ray.config import ConfigError, RunConfig, load_config
from boxmed_ray.placement.memory import GB
from boxmed_ray.placement.plan import Plan, Trained, Use, usable_bytes
from boxmed_ray.placement.plan import plan as plan_of
from boxmed_ray.placement.search import Found, fewest, lay_out, with_lora


def plan(recipe: str, overrides: Sequence[str], gpus: int | None) -> int:
    """Print the plan; 0 if the run fits, 2 if it does not, with what would.

    Raises:
        ConfigError: a wrong key, an unknown backbone, or a run without GPUs.
    """
    config = load_config(recipe, overrides)
    if not config.resources.on_gpus and gpus is None:
        raise ConfigError(
            f"recipe {recipe} runs on CPUs, where nothing is to be planned; --gpus N lays it out on N GPUs"
        )
    stated, trained = stated_plan(config, gpus)
    if gpus is None:
        print_plan(stated, sys.stdout)
        found = Found(stated, {}) if stated.fits else None
    else:
        found = lay_out(stated, trained, gpus)
        print_plan(stated if found is None else found.plan, sys.stdout)
        if found is not None and found.changes:
            print(f"\nto run it so:\n  {found.options}")
    if found is not None:
        return 0
    print(refusal(stated, trained), file=sys.stderr)
    return 2


def stated_plan(config: RunConfig, gpus: int | None = None) -> tuple[Plan, Trained]:
    """The plan of a config as it stands, and what counts trained parameters of its backbone."""
    from boxmed_ray.model.architecture import configuration, describe, trained_parameters

    backbone = configuration(config.model, config.data.image_size)
    trained = functools.cache(lambda train: trained_parameters(backbone, train))
    model = describe(config.model.name_or_path, backbone)
    return plan_of(config, model, trained, gpus), trained


def refuse_what_cannot_fit(config: RunConfig) -> None:
    """Print the plan of a run that uses GPUs, on stderr, before anything is started.

    Raises:
        ConfigError: it does not fit, with the arithmetic and with what would.
    """
    if not config.resources.on_gpus:
        return
    stated, trained = stated_plan(config)
    print_plan(stated, sys.stderr)
    if not stated.fits:
        raise ConfigError(refusal(stated, trained))


def refusal(stated: Plan, trained: Trained) -> str:
    """What does not fit and what would."""
    lines = [f"does not fit on {stated.gpus} GPUs of {stated.config.resources.gpu_memory_gb:g} GB:"]
    lines += [f"  {problem}" for problem in stated.problems]
    lines.append("what would:")
    lines += [f"  {way}" for way in _ways(stated, trained)] or ["  nothing up to 64 GPUs; use a smaller backbone"]
    return "\n".join(lines)


def _ways(stated: Plan, trained: Trained) -> list[str]:
    ways = []
    if (found := lay_out(stated, trained, stated.gpus)) is not None:
        ways.append(f"the same run on {stated.gpus} GPUs, otherwise placed: {found.options}")
    elif (found := with_lora(stated, trained, stated.gpus)) is not None:
        ways.append(f"LoRA on the language model, on {stated.gpus} GPUs: {found.options}")
    if (found := fewest(stated, trained, stated.gpus)) is not None:
        ways.append(f"all parameters on {found.plan.gpus} GPUs: {found.options}")
    return ways


def print_plan(plan: Plan, out: TextIO) -> None:
    """The plan as text."""
    resources, svr, model = plan.config.resources, plan.config.svr, plan.model
    parts = ", ".join(f"{part.replace('_', ' ')} {count / 1e9:.3f} B" for part, count in model.parameters.items())
    where = "colocated" if resources.colocated else "apart"
    limit = usable_bytes(plan.config)
    lines = [
        f"{plan.config.name} on {plan.gpus} GPUs of {resources.gpu_memory_gb:g} GB ({limit / GB:.1f} GB of each usable)",
        f"  backbone   {model.name}: {model.total / 1e9:.3f} B parameters ({parts}), {plan.config.model.dtype}",
        f"  learner    {resources.learner_ranks} ranks x {resources.gpus_per_learner:g} GPU, ZeRO {svr.zero_stage}",
        f"  rollouts   {resources.rollout_workers.max} workers x {resources.gpus_per_rollout:g} GPU "
        f"(tensor parallel {resources.tensor_parallel}), {resources.max_sequences} sequences at once",
        f"  rewards    {resources.reward_workers.max} workers x {resources.cpus_per_reward:g} cores, no GPU",
        f"  placement  learner and rollouts {where}; supervised stages on {resources.train_workers} workers",
    ]
    for use in plan.uses:
        lines += ["", *_use(use, limit)]
    lines += ["", *plan.notes]
    print("\n".join(lines), file=out)


def _use(use: Use, limit: int) -> list[str]:
    width = max(len(item.name) for item in use.items)
    verdict = "fits" if use.size <= limit else f"{(use.size - limit) / GB:.1f} GB TOO MUCH"
    return [
        f"{use.name}, on each of {use.gpus} GPUs: {use.size / GB:.1f} GB of {limit / GB:.1f}, {verdict}",
        *(f"  {item.name:<{width}} {item.size / GB:6.2f} GB  {item.formula}" for item in use.items),
    ]
