"""The state of an Engine by parameter name, whatever the ZeRO stage and the number of ranks.

What lives here: whole parameters (with LoRA merged, if asked), AdamW moments and random generators, gathered
from ranks, put into a checkpoint and taken out again. What does not: folders, digests, which checkpoint is
whole (checkpoint.py); pushing weights to vLLM (actors/weights.py).

A checkpoint holds whole float32 tensors under parameter names, never a rank's shard: a run resumes
with another number of ranks or another stage. Every function here is called by all ranks together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.model.engine import Engine
from boxmed_ray.model.generators import restore_rng, rng_state
from boxmed_ray.model.merged import merged_tensors

MOMENTS: Final = ("exp_avg", "exp_avg_sq")
_FILE: Final = "engine.safetensors"
_PARAM: Final = "param/"


def whole(parameters: list[nn.Parameter], modifier_rank: int | None = None) -> AbstractContextManager[Any]:
    """Parameters that ZeRO-3 has split are whole inside the context, a collective; others are so anyway."""
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        return deepspeed.zero.GatheredParameters(parameters, modifier_rank=modifier_rank)
    return nullcontext()


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape of the whole: one that ZeRO-3 has split is empty itself and keeps it in ``ds_shape``."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def full_parameters(module: nn.Module, *, trainable_only: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and whole parameters, one gathered at a time under ZeRO-3; a tensor is valid until the next."""
    for name, parameter in module.named_parameters():
        if trainable_only and not parameter.requires_grad:
            continue
        with whole([parameter]):
            yield name, parameter.detach()


def merged_parameters(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """As ``full_parameters``, with LoRA merged, under the backbone's own names (merged.py)."""
    for tensor in merged_tensors(module):
        with whole(tensor.parameters):
            yield tensor.name, tensor.value()


def full_state_dict(module: nn.Module, rank: int, *, merged: bool = False) -> dict[str, torch.Tensor]:
    """Copies of all whole parameters on the CPU, on rank 0; empty on others, which only take part.

    With ``merged``, LoRA is merged into the tensors that it is on, and they have the backbone's own names.
    """
    copies: dict[str, torch.Tensor] = {}
    for name, tensor in merged_parameters(module) if merged else full_parameters(module):
        if rank == 0:
            copies[name] = tensor.cpu().clone()
    return copies


def write_checkpoint(
    engine: Engine, store: CheckpointStore, step: int, state: dict[str, Any], score: float | None = None
) -> None:
    """Checkpoint the engine and every rank's random generators with ``state``; rank 0 writes.

    Raises:
        CheckpointError: (on rank 0) it cannot be written; the other ranks wait until they are ended.
    """
    generators: list[dict[str, torch.Tensor] | None] = [None] * engine.world_size
    dist.all_gather_object(generators, rng_state())
    tensors = _gather(engine)
    if engine.rank == 0:
        for rank, generator in enumerate(generators):
            tensors |= {f"rng/{rank}/{key}": value.contiguous() for key, value in (generator or {}).items()}
        store.save(step, state, lambda folder: _write(tensors, folder / _FILE), score)
    dist.barrier()


def load_checkpoint(engine: Engine, folder: Path) -> None:
    """Bring the engine and this rank's random generators to a checkpoint that is whole (checkpoint.py).

    A rank that had no part in writing it (more ranks than then) keeps its own generators; those of ranks that are
    no more go unused.

    Raises:
        KeyError: the checkpoint is of another model, or other parts of it were trained.
    """
    generator = _put_back(engine, folder)
    if generator:
        restore_rng(generator)


def stored_parameters(folder: Path) -> dict[str, torch.Tensor]:
    """The trained parameters in a checkpoint, in float32, by their name in the engine's module."""
    with safe_open(folder / _FILE, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(_PARAM)]  # noqa: SIM118 (not a dict)
        return {name.removeprefix(_PARAM): file.get_tensor(name) for name in names}


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # how it tells that the disk is full
        raise OSError(str(error)) from error


def _gather(engine: Engine) -> dict[str, torch.Tensor]:
    """Trainable parameters and moments in float32 on rank 0; nothing on the others, which take part."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in _trainable(engine):
        for kind in ("param", *MOMENTS) if engine.updates else ("param",):
            value = _get(engine, parameter, kind)
            if engine.rank == 0:
                tensors[f"{kind}/{name}"] = value.detach().float().cpu().clone().contiguous()
    tensors["updates"] = torch.tensor(engine.updates)
    return tensors


def _put_back(engine: Engine, folder: Path) -> dict[str, torch.Tensor]:
    """Undo ``_gather``; returns the stored generators of this rank."""
    with safe_open(folder / _FILE, framework="pt") as file:
        names = set(file.keys())
        wanted = {(f"param/{name}", full_shape(p)) for name, p in _trainable(engine)}
        stored = {(name, tuple(file.get_slice(name).get_shape())) for name in names if name.startswith("param/")}
        if wanted != stored:
            name, shape = min(wanted ^ stored)
            raise KeyError(
                f"{folder}: is of another model, or of a run that trained other parts of it; parameters differ, "
                f"such as {name} {list(shape)}; resume with the model and the train settings that wrote it"
            )
        updates = int(file.get_tensor("updates"))
        if updates:
            _prime_moments(engine, updates)
        for name, parameter in _trainable(engine):
            _set_parameter(engine, parameter, file.get_tensor(f"param/{name}"))
            for moment in MOMENTS if updates else ():
                _set_moment(engine, parameter, file.get_tensor(f"{moment}/{name}"), moment)
        engine.updates = updates
        mine = f"rng/{engine.rank}/"
        return {key.removeprefix(mine): file.get_tensor(key) for key in names if key.startswith(mine)}


def _trainable(engine: Engine) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in engine.module.named_parameters() if parameter.requires_grad]


def _get(engine: Engine, parameter: nn.Parameter, kind: str) -> torch.Tensor:
    if engine.stage == 0:
        return parameter if kind == "param" else engine.adamw.state[parameter][kind]
    if kind == "param":
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, kind)


def _set_parameter(engine: Engine, parameter: nn.Parameter, value: torch.Tensor) -> None:
    value = value.to(engine.device)
    if engine.stage == 3:
        _set_local(engine, parameter, value, None)
        with whole([parameter], modifier_rank=0):
            parameter.data.copy_(value)
        return
    parameter.data.copy_(value)
    if engine.stage:
        safe_set_full_fp32_param(parameter, value)


def _set_moment(engine: Engine, parameter: nn.Parameter, value: torch.Tensor, kind: str) -> None:
    value = value.to(engine.device)
    if engine.stage == 0:
        engine.adamw.state[parameter][kind].copy_(value)
    elif engine.stage == 3:
        _set_local(engine, parameter, value, kind)
    else:
        safe_set_full_optimizer_state(parameter, value, kind)


def _set_local(engine: Engine, parameter: nn.Parameter, value: torch.Tensor, kind: str | None) -> None:
    """This rank's part of a ZeRO-3 tensor; the last part is padded, which DeepSpeed's own setter refuses."""
    size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
    flat = value.flatten()[engine.rank * size : (engine.rank + 1) * size]
    padded = nn.functional.pad(flat, (0, size - flat.numel()))
    engine.ds.optimizer.set_local_hp_param(padded, parameter, kind)


def _prime_moments(engine: Engine, updates: int) -> None:
    """AdamW makes its state in its first step; a resumed one needs it before."""
    for flat in _flat_parameters(engine):
        engine.adamw.state[flat] = {
            "step": torch.tensor(float(updates)),
            **{kind: torch.zeros_like(flat, memory_format=torch.preserve_format) for kind in MOMENTS},
        }
    if engine.stage in (1, 2):
        engine.ds.optimizer._hp_optimizer_states_linked = False
        engine.ds.optimizer._lazy_init_hp_params_optimizer_state()


def _flat_parameters(engine: Engine) -> list[torch.Tensor]:
    """The tensors that AdamW itself sees: parameters, or this rank's flat partitions of them."""
    if engine.stage == 0:
        return [parameter for _, parameter in _trainable(engine)]
    zero = engine.ds.optimizer
    return list(zero.fp32_partitioned_groups_flat if engine.stage == 3 else zero.single_partition_of_fp32_groups)
