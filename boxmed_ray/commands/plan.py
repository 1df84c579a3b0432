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
    found = Found(stated, {}) if gpus is None else lay_out(stated, trained, gpus)
    print_plan(found.plan, sys.stdout)
    if not found.plan.fits:
        print(refusal(found.plan, stated, trained), file=sys.stderr)
        return 2
    if found.changes:
        print(f"\nto run it so:\n  {found.options}")
    return 0


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
        raise ConfigError(refusal(stated, stated, trained))


def refusal(refused: Plan, stated: Plan, trained: Trained) -> str:
    """What does not fit, and what of the run as ``stated`` would."""
    gpus = "1 GPU" if refused.gpus == 1 else f"{refused.gpus} GPUs"
    lines = [f"{refused.config.name} does not fit on {gpus} of {refused.config.resources.gpu_memory_gb:g} GB:"]
    lines += [f"  {problem}" for problem in refused.problems]
    lines.append("what would:")
    lines += [f"  {way}" for way in _ways(stated, trained)] or ["  nothing up to 64 GPUs; use a smaller backbone"]
    return "\n".join(lines)


def _ways(stated: Plan, trained: Trained) -> list[str]:
    ways = []
    if (same := lay_out(stated, trained, stated.gpus)).plan.fits:
        ways.append(f"the same run on {stated.gpus} GPUs, otherwise placed: {same.options}")
    elif (lora := with_lora(stated, trained, stated.gpus)) is not None:
        ways.append(f"LoRA on the language model in the place of all parameters: {lora.options}")
    if (more := fewest(stated, trained, stated.gpus)) is not None:
        ways.append(f"the same run on {more.plan.gpus} GPUs: {more.options}")
    return ways


def print_plan(plan: Plan, out: TextIO) -> None:
    """The plan as text."""
    resources, svr, model = plan.config.resources, plan.config.svr, plan.model
    parts = ", ".join(f"{part.replace('_', ' ')} {count / 1e9:.3f} B" for part, count in model.parameters.items())
    where = "colocated" if resources.colocated else "apart"
    limit = usable_bytes(plan.config)
    lines = [
        f"{plan.config.name} on {plan.gpus} GPUs of {resources.gpu_memory_gb:g} GB, {limit / GB:.1f} of them usable",
        f"  backbone   {model.name}: {model.total / 1e9:.3f} B parameters ({parts}), {plan.config.model.dtype}",
        f"  learner    {resources.learner_ranks} ranks x {resources.gpus_per_learner:g} GPU, ZeRO {svr.zero_stage}",
        f"  rollouts   {resources.rollout_workers.max} workers x {resources.gpus_per_rollout:g} GPU "
        f"(tensor parallel {resources.tensor_parallel}), {resources.max_sequences} sequences at once",
        f"  rewards    {resources.reward_workers.max} workers x {resources.cpus_per_reward:g} cores, no GPU",
        f"  placement  learner and rollouts {where}; supervised stages on {resources.train_workers} workers",
    ]
    for use in plan.uses:
        lines += ["", *_use(use)]
    lines += ["", *plan.notes]
    print("\n".join(lines), file=out)


def _use(use: Use) -> list[str]:
    width = max(len(item.name) for item in use.items)
    verdict = "fits" if use.size <= use.limit else f"{(use.size - use.limit) / GB:.1f} GB TOO MUCH"
    return [
        f"{use.name}, on each of {use.gpus} GPUs: {use.size / GB:.1f} GB of {use.limit / GB:.1f}, {verdict}",
        *(f"  {item.name:<{width}} {item.size / GB:6.2f} GB  {item.formula}" for item in use.items),
    ]
