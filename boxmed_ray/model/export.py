"""From a checkpoint of SVR, or an adapter, to a model folder that transformers and vLLM load.

What lives here: putting the trained parameters of a checkpoint into the model that the stage started from, and an
adapter into its backbone. What does not: which checkpoint (commands/export.py), what is in one (engine_state.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from boxmed_ray.config import RunConfig
from boxmed_ray.model.engine_state import full_state_dict, stored_parameters
from boxmed_ray.model.policy import load_policy, load_processor, save_policy
from boxmed_ray.model.shared_prefix import ResponsePolicy
from boxmed_ray.model.trainable import select_trainable


def export_model(config: RunConfig, backbone: Path, checkpoint: Path, target: Path) -> None:
    """Write the policy of a checkpoint, LoRA merged, beside ``target`` and rename it.

    Args:
        config: of the run: what SVR trains, and the type of the weights.
        backbone: the model folder that SVR started from.
        checkpoint: its folder; whole.
        target: must not exist.

    Raises:
        KeyError: the checkpoint is of another model, or other parts of it were trained.
    """
    dtype = torch.bfloat16 if config.model.dtype == "bfloat16" else torch.float32
    model = load_policy(backbone, dtype)
    select_trainable(model, config.svr.train)
    module = ResponsePolicy(model)
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    stored = stored_parameters(checkpoint)
    if trained.keys() != stored.keys():
        name = min(trained.keys() ^ stored.keys())
        raise KeyError(f"{checkpoint}: is not of {backbone} with svr.train as it is; parameters differ, such as {name}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(stored[name])
    state = {name.removeprefix("model."): value for name, value in full_state_dict(module, 0, merged=True).items()}
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state_dict=state)
    load_processor(backbone).save_pretrained(temporary)
    temporary.rename(target)


def export_merged(config: RunConfig, backbone: Path, adapter: Path, target: Path) -> None:
    """Write ``backbone`` with a PEFT adapter merged into it; merged in float32 and rounded once.

    Args:
        config: of the run: the type of the weights.
        backbone: the model folder that the adapter was trained on.
        adapter: its folder.
        target: must not exist.
    """
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_policy(backbone, torch.float32), str(adapter)).merge_and_unload()
    if config.model.dtype == "bfloat16":
        model = model.to(torch.bfloat16)
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_policy(model, load_processor(backbone), temporary)
    temporary.rename(target)
