"""Two ranks under ZeRO 3 with unequal work: nobody hangs, and the gradients are those of one process."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from boxmed_ray.model.shared_prefix import GroupInputs, ResponsePolicy
from tests.model.shared_prefix_cases import BANNED, random_group, tiny

RANKS = 2
CHUNK = 7  # the head then runs more often on rank 0 than on rank 1


def share(rank: int) -> list[GroupInputs]:
    generator = torch.Generator().manual_seed(rank)
    return (
        [random_group(generator, 5, longest=25), random_group(generator, 3)]
        if rank == 0
        else [random_group(generator, 1)]
    )


def total(policy: torch.nn.Module, groups: list[GroupInputs]) -> torch.Tensor:
    result = policy(groups, banned_ids=BANNED, chunk=CHUNK)
    return sum(logprobs.sum() for logprobs in result.logprobs)  # type: ignore[return-value]


def work(rank: int, port: int, folder: Path) -> None:
    import os

    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
    deepspeed.ops.__compatible_ops__ = {}  # no shared-memory collective is compiled
    model = tiny("qwen2", 1).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = ResponsePolicy(model)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(
        model=policy,
        optimizer=torch.optim.SGD(policy.parameters(), lr=0.1),
        model_parameters=policy.parameters(),
        config=config,
    )
    engine.backward(total(engine, share(rank)))
    grads = {name: safe_get_full_grad(parameter) for name, parameter in policy.named_parameters()}
    if rank == 0:
        torch.save(grads, folder / "grads.pt")
    torch.distributed.barrier()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_unequal_ranks_under_zero_3_finish_with_the_gradients_of_one_process(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(work, args=(port, tmp_path), nprocs=RANKS, join=True)
    found = torch.load(tmp_path / "grads.pt")
    policy = ResponsePolicy(tiny("qwen2", 1))
    (sum(total(policy, share(rank)) for rank in range(RANKS)) / RANKS).backward()
    scale = max(float(p.grad.norm()) for p in policy.parameters() if p.grad is not None)
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None
        error = float((found[name] - parameter.grad).norm()) / max(float(parameter.grad.norm()), 1e-3 * scale)
        assert error <= 1e-5, f"{name}: {error:.1e}"
