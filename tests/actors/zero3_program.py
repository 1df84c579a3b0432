"""One of two ranks under ZeRO-3 that push a model whole; run by test_weight_source.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn

from boxmed_ray.actors.weight_file import WeightFileError
from boxmed_ray.actors.weight_fleet import LocalClient
from boxmed_ray.actors.weight_source import ModuleWeights
from tests.actors.pushing import through_shm


class Receiver:
    """Keeps what it is sent."""

    received: dict[str, torch.Tensor]

    def weight_phase(self, phase: str, payload: Any) -> None:
        if phase == "update":
            self.received = {name: tensor.clone() for name, tensor in load_file(payload["path"]).items()}


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3, bias=False), nn.Linear(3, 11))
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    # LoRA on the first layer, with a B that is not zero: it arrives merged, under the layer's own name.
    get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False))
    first: Any = model[0]
    expected["0.weight"] += 3 * (first.lora_B["default"].weight @ first.lora_A["default"].weight).detach()
    config = {
        "train_batch_size": 2,
        # By default DeepSpeed leaves small parameters whole, and all of these are small.
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
    }
    deepspeed.ops.__compatible_ops__ = {}  # nothing is compiled; see model/engine.py
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)
    assert all(parameter.numel() == 0 for parameter in engine.module.parameters())  # each rank holds slices only
    source = ModuleWeights(engine.module, bucket_bytes=100)
    assert {meta.name: tuple(meta.shape) for meta in source.metadata()} == {
        name: tuple(tensor.shape) for name, tensor in expected.items()
    }

    receiver = Receiver()
    clients = [LocalClient(receiver)] if rank == 0 else []
    push = through_shm(source, clients, folder, rank=rank)
    report = push.send_weights(3)
    assert (report is None) == (rank != 0)
    if rank == 0:
        assert receiver.received.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(receiver.received[name], tensor, rtol=0, atol=1e-6)

    # A push that rank 0 cannot write must not leave the other rank waiting in a collective.
    broken = through_shm(source, clients, folder / "absent", rank=rank)
    try:
        broken.send_weights(4)
        assert rank != 0
    except WeightFileError:
        assert rank == 0
    dist.barrier()
    (folder / f"done{rank}").touch()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
