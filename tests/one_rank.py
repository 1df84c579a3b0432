"""A process group of this process alone, for tests of what ranks do together."""

from __future__ import annotations

import os
import tempfile

import torch.distributed as dist


def join() -> None:
    """Join it. It is never left: DeepSpeed keeps the groups of a process for as long as it lives."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    if not dist.is_initialized():
        store = dist.FileStore(tempfile.mktemp(prefix="boxmed-group-"), 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
