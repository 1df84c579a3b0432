"""A configuration that fits on so many GPUs, as close as can be to the one that was asked for.

What lives here: which settings may be changed without changing what is learned, and in which order. What does not:
whether one fits (plan.py).
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from boxmed_ray.config import RunConfig
from boxmed_ray.placement.plan import Plan, Trained, plan

Changes = Mapping[str, Any]
"""Key of the configuration → value."""

_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_TENSOR_PARALLEL = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Found:
    """A plan that fits and what was changed for it."""

    plan: Plan
    changes: Changes

    @property
    def options(self) -> str:
        """For the command line."""
        return " ".join(f"--set {key}={_yaml(value)}" for key, value in self.changes.items())


def changed(config: RunConfig, changes: Changes) -> RunConfig:
    """The configuration with the values of ``changes``."""
    values = config.model_dump()
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        node[last] = value
    return RunConfig.model_validate(values)


def lay_out(stated: Plan, trained: Trained, gpus: int) -> Found:
    """The configuration of ``stated`` on all of ``gpus``; what it learns stays as it is.

    Where nothing fits (``found.plan.fits`` tells) it is the one that is nearest to fitting. A run is laid out as it
    says if it asks for just so many GPUs and fits. Else the split between learner and rollouts stays as near to its
    own as can be, and then, in this order, layers are computed again, micro-batches and caches are halved, ZeRO 3 is
    used, the reference waits on the host.
    """
    config = stated.config
    if round(config.resources.gpus) == gpus and stated.fits:
        return Found(stated, {})
    savings = sorted(_savings(config), key=lambda pair: pair[0])
    tightest = [(pair, _try(stated, trained, gpus, pair[1] | savings[-1][1])) for pair in _layouts(config, gpus)]
    able = [pair for pair, found in tightest if found.plan.fits]
    if not able:
        return min((found for _, found in tightest), key=lambda found: max(use.size for use in found.plan.uses))
    ordered = sorted(itertools.product(able, savings), key=lambda pair: pair[0][0] + pair[1][0])
    tries = (_try(stated, trained, gpus, layout | saving) for (_, layout), (_, saving) in ordered)
    return next(found for found in tries if found.plan.fits)


def _try(stated: Plan, trained: Trained, gpus: int, values: Changes) -> Found:
    dump = stated.config.model_dump()
    changes = {key: value for key, value in values.items() if _at(dump, key) != value}
    return Found(plan(changed(stated.config, changes), stated.model, trained, gpus), changes)


def fewest(stated: Plan, trained: Trained, above: int) -> Found | None:
    """The least usual number of GPUs above ``above`` on which the run fits."""
    counts = (gpus for gpus in _COUNTS if gpus > above)
    return next((found for gpus in counts if (found := lay_out(stated, trained, gpus)).plan.fits), None)


def with_lora(stated: Plan, trained: Trained, gpus: int) -> Found | None:
    """The run with LoRA on the language model in the place of all parameters: this one learns something else."""
    lora = {"language_model": False, "projector": False, "vision_tower": False, "lora": {"rank": 64, "alpha": 128}}
    changes = {"mcl.train": lora, "svr.train": lora}
    config = changed(stated.config, changes)
    found = lay_out(plan(config, stated.model, trained, gpus), trained, gpus)
    return Found(found.plan, changes | dict(found.changes)) if found.plan.fits else None


def _layouts(config: RunConfig, gpus: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """Ways to use all of ``gpus``, each with its distance from the stated one."""
    resources = config.resources
    wanted = math.log2(max(1, resources.rollout_workers.max) * resources.tensor_parallel / resources.learner_ranks)
    for parallel in _TENSOR_PARALLEL:
        for workers in range(1, (gpus - 1) // parallel + 1):
            learners = gpus - workers * parallel
            distance = abs(math.log2(workers * parallel / learners) - wanted)
            distance += abs(math.log2(parallel / resources.tensor_parallel)) + 2 * resources.colocated
            yield distance, _layout(config, learners, workers, parallel, colocated=False)
    yield 0.0 if resources.colocated else 3.0, _layout(config, gpus, gpus, 1, colocated=True)


def _layout(config: RunConfig, learners: int, workers: int, parallel: int, *, colocated: bool) -> dict[str, Any]:
    gpus = learners if colocated else learners + workers * parallel
    return {
        "resources.learner_ranks": learners,
        "resources.rollout_workers": {"min": workers, "max": workers},
        "resources.gpus_per_learner": 1,
        "resources.gpus_per_rollout": parallel,
        "resources.colocated": colocated,
        # A train worker without an example of the batch would have nothing to compute.
        "resources.train_workers": min(gpus, config.mcl.batch_size, config.adapter.batch_size),
    }


def _savings(config: RunConfig) -> Iterator[tuple[float, dict[str, Any]]]:
    """Settings that trade time for memory, each with what it is held to cost."""
    resources, svr = config.resources, config.svr
    again = {config.model.gradient_checkpointing: 0.0, True: 0.5}
    again[config.model.gradient_checkpointing] = 0.0
    stages = {svr.zero_stage: 0.0, 3: 0.0 if svr.zero_stage == 3 else 1.0}
    homes = {svr.reference_device: 0.0, "cpu": 0.0 if svr.reference_device == "cpu" else 1.5}
    halves = (0, 1, 2)
    for (ckpt, a), (zero, b), (home, c), micro, cache in itertools.product(
        again.items(), stages.items(), homes.items(), halves, halves
    ):
        yield (
            a + b + c + 0.5 * micro + 0.7 * cache,
            {
                "model.gradient_checkpointing": ckpt,
                "mcl.zero_stage": max(zero, config.mcl.zero_stage),
                "svr.zero_stage": zero,
                "svr.reference_device": home,
                "svr.micro_tokens": max(1, svr.micro_tokens >> micro),
                "resources.max_sequences": max(1, resources.max_sequences >> cache),
                "resources.kv_cache_gb": resources.kv_cache_gb / 2**cache,
            },
        )


def _at(values: dict[str, Any], key: str) -> Any:
    value: Any = values
    for part in key.split("."):
        value = value[part]
    return value


def _yaml(value: Any) -> str:
    """A value as --set takes it."""
    if isinstance(value, dict) and value.keys() == {"min", "max"} and value["min"] == value["max"]:
        return str(value["max"])
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).removesuffix("...\n").strip()
    return shlex.quote(text)
