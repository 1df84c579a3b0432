"""Where a run's parts go, and whether they fit: the arithmetic of a configuration on so many GPUs.

What lives here: the plan of a configuration as it states it, and the plan in words. What does not: the bytes of a role
(memory.py), looking for a configuration that fits (search.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boxmed_ray.config import AdapterConfig, MCLConfig, RunConfig, TrainableConfig
from boxmed_ray.placement import memory
from boxmed_ray.placement.memory import GB, GIB, Item, LearnerLoad

if TYPE_CHECKING:
    from boxmed_ray.model.architecture import Architecture

USABLE = 0.95
"""Share of a GPU's memory that a plan may fill: the rest is what the allocator loses between its blocks."""
PROMPT_TEXT = 128
"""Tokens of a prompt beside its image. Assumed; prompts of data/prompts.py have fewer."""

Trained = Callable[[TrainableConfig], int]
"""Parameters that a stage trains."""


@dataclass(frozen=True, slots=True)
class Use:
    """What lies on each of ``gpus`` GPUs in a stage.

    Attributes:
        name: of the role.
        gpus: that it takes, or parts of GPUs.
        items: what it holds on each.
        limit: bytes that it may take of each.
    """

    name: str
    gpus: int
    items: tuple[Item, ...]
    limit: int

    @property
    def size(self) -> int:
        """Bytes on each."""
        return sum(item.size for item in self.items)


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration on GPUs.

    Attributes:
        config: of the run.
        model: its backbone.
        gpus: that there are.
        uses: what lies on them, stage by stage.
        problems: why it cannot run; empty where it can.
        notes: what is worth knowing and refuses nothing.
    """

    config: RunConfig
    model: Architecture
    gpus: int
    uses: tuple[Use, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the run may start."""
        return not self.problems


def usable_bytes(config: RunConfig) -> int:
    """Of a GPU."""
    return int(config.resources.gpu_memory_gb * GB * USABLE)


def plan(config: RunConfig, model: Architecture, trained: Trained, gpus: int | None = None) -> Plan:
    """The plan of ``config`` as it is.

    Args:
        config: of the run, which has GPUs.
        model: its backbone.
        trained: counts what a stage trains.
        gpus: that there are; by default as many as the config asks for.
    """
    there = round(config.resources.gpus) if gpus is None else gpus
    uses = tuple(_uses(config, model, trained))
    problems = [*_counting(config, there), *_lengths(config, model)]
    problems += [_too_much(use) for use in uses if use.size > use.limit]
    return Plan(config, model, there, uses, tuple(problems), tuple(_notes(config, model)))


def prompt_tokens(config: RunConfig, model: Architecture) -> int:
    """Image and text of a prompt."""
    return model.image_tokens(config.data.image_size) + PROMPT_TEXT


def _uses(config: RunConfig, model: Architecture, trained: Trained) -> Iterator[Use]:
    resources, svr, whole = config.resources, config.svr, usable_bytes(config)
    learners, rollouts = (int(whole * min(1.0, s)) for s in (resources.gpus_per_learner, resources.gpus_per_rollout))
    stages: Mapping[str, MCLConfig | AdapterConfig] = {"MCL": config.mcl, "adapter": config.adapter}
    if resources.gpus_per_learner:
        for name, stage in stages.items():
            load = _supervised(config, model, trained(stage.train), stage)
            yield Use(f"{name} train worker", resources.train_workers, tuple(memory.learner(model, load)), learners)
    weight_bytes = _weight_bytes(config)
    rollout = memory.engine(
        model,
        tensor_parallel=resources.tensor_parallel,
        weight_bytes=weight_bytes,
        kv_gib=resources.kv_cache_gb,
        sequences=resources.max_sequences,
        max_length=config.model.max_length,
    )
    learner = memory.learner(model, _reinforced(config, model, trained(svr.train)))
    if resources.colocated:
        both = [*_renamed("learner", learner), *_renamed("rollout", rollout)]
        yield Use("SVR learner rank and rollout worker", resources.learner_ranks, tuple(both), whole)
        return
    if resources.gpus_per_learner:
        yield Use("SVR learner rank", resources.learner_ranks, tuple(learner), learners)
    if resources.gpus_per_rollout:
        count = resources.rollout_workers.max * resources.tensor_parallel
        yield Use("rollout worker", count, tuple(rollout), rollouts)


def _renamed(role: str, items: list[Item]) -> list[Item]:
    return [Item(f"{role}: {item.name}", item.size, item.formula) for item in items]


def _weight_bytes(config: RunConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def _supervised(config: RunConfig, model: Architecture, trained: int, stage: MCLConfig | AdapterConfig) -> LearnerLoad:
    examples = -(-stage.batch_size // config.resources.train_workers)
    return LearnerLoad(
        trained=trained,
        ranks=config.resources.train_workers,
        zero_stage=stage.zero_stage,
        weight_bytes=_weight_bytes(config),
        checkpointing=config.model.gradient_checkpointing,
        tokens=examples * config.model.max_length,
        images=examples,
        image_tokens=model.image_tokens(config.data.image_size),
    )


def _reinforced(config: RunConfig, model: Architecture, trained: int) -> LearnerLoad:
    svr, prompt = config.svr, prompt_tokens(config, model)
    copy = svr.kl_beta > 0 and not _lora_alone(svr.train)
    # One prompt with one response is the least that a forward pass can be.
    tokens = max(svr.micro_tokens, prompt + svr.max_new_tokens)
    return LearnerLoad(
        trained=trained,
        ranks=config.resources.learner_ranks,
        zero_stage=svr.zero_stage,
        weight_bytes=_weight_bytes(config),
        checkpointing=config.model.gradient_checkpointing,
        tokens=tokens,
        images=max(1, tokens // prompt),
        image_tokens=model.image_tokens(config.data.image_size),
        reference=svr.reference_device if copy else None,
    )


def _lora_alone(train: TrainableConfig) -> bool:
    """Whether the reference is the policy itself with its LoRA switched off (model/reference.py)."""
    parts = {"language_model": train.language_model, "projector": train.projector, "vision_tower": train.vision_tower}
    lora = () if train.lora is None else train.lora.parts
    return bool(lora) and not any(whole and part not in lora for part, whole in parts.items())


def _counting(config: RunConfig, gpus: int) -> Iterator[str]:
    r = config.resources
    if r.gpus <= gpus:
        return
    yield (
        f"{r.gpus:g} GPUs are asked for and there are {gpus}: {r.learner_ranks} learner ranks x "
        f"{r.gpus_per_learner:g} and {r.rollout_workers.max} rollout workers x {r.gpus_per_rollout:g}"
        f"{' on the same GPUs' if r.colocated else ''}; {r.train_workers} train workers x {r.gpus_per_learner:g}"
    )


def _lengths(config: RunConfig, model: Architecture) -> Iterator[str]:
    prompt, svr, resources = prompt_tokens(config, model), config.svr, config.resources
    longest = prompt + max(svr.max_new_tokens, config.evaluate.report_tokens)
    if longest > config.model.max_length:
        yield (
            f"model.max_length {config.model.max_length} is too short: image {prompt - PROMPT_TEXT} + text "
            f"{PROMPT_TEXT} + response {longest - prompt} = {longest} tokens"
        )
    if model.heads % resources.tensor_parallel:
        yield f"{model.heads} attention heads cannot be divided among {resources.tensor_parallel} GPUs of a worker"
    need = memory.group_tokens(prompt, svr.group_size, svr.max_new_tokens) * _kv_token(config, model)
    if resources.gpus_per_rollout and need > resources.kv_cache_gb * GIB:
        yield (
            f"resources.kv_cache_gb {resources.kv_cache_gb:g} does not hold one group: ({prompt} + {svr.group_size} x "
            f"{svr.max_new_tokens}) tokens x {_kv_token(config, model)} B = {need / GIB:.2f} x 2^30 B"
        )


def _kv_token(config: RunConfig, model: Architecture) -> int:
    return memory.kv_token(model, config.resources.tensor_parallel, _weight_bytes(config))


def _too_much(use: Use) -> str:
    largest = sorted(use.items, key=lambda item: -item.size)[:4]
    told = " + ".join(f"{item.name} {item.size / GB:.1f}" for item in largest)
    return (
        f"{use.name}: {use.size / GB:.1f} GB a GPU, {(use.size - use.limit) / GB:.1f} GB more than the "
        f"{use.limit / GB:.1f} that can be used ({told} + …)"
    )


def _notes(config: RunConfig, model: Architecture) -> Iterator[str]:
    resources, svr, prompt = config.resources, config.svr, prompt_tokens(config, model)
    groups = resources.max_sequences / svr.group_size
    if resources.gpus_per_rollout:
        most = groups * memory.group_tokens(prompt, svr.group_size, svr.max_new_tokens) * _kv_token(config, model)
        yield (
            f"KV cache of {resources.max_sequences} sequences at their longest: {groups:g} groups x ({prompt} + "
            f"{svr.group_size} x {svr.max_new_tokens}) tokens x {_kv_token(config, model)} B = {most / GIB:.1f} x 2^30"
            + ("" if most <= resources.kv_cache_gb * GIB else ": more than there is, so some will wait their turn")
        )
    weights = _weight_bytes(config) * model.total / GB
    host = 2 * weights + (weights * min(8, resources.learner_ranks) if svr.reference_device == "cpu" else 0)
    yield f"host memory of a node with 8 GPUs: two copies of pushed weights and references there, {host:.0f} GB"
