"""Two Ray nodes with a store each: what one puts, two readers on the other read; run by test_weight_store.py."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster

from boxmed_ray.actors.weight_file import TensorSpec
from boxmed_ray.actors.weight_push import live_nodes
from boxmed_ray.actors.weight_store import fetch, put

TENSORS = [(f"layer.{index}", torch.full((1 << 20,), float(index))) for index in range(6)]
"""Of 4 MB each, two a chunk."""


class Reader:
    """Holds what it has fetched."""

    def read(self, layout: Any, chunks: list[Any]) -> tuple[str, list[float], list[str]]:
        """Node, first value of every tensor, and where in which shared memory each lies."""
        self.held = list(fetch(layout, chunks))
        values = [float(spec.view(data)[0]) for spec, data in self.held]
        return ray.get_runtime_context().get_node_id(), values, [_memory(data) for _, data in self.held]


def _memory(data: np.ndarray[Any, Any]) -> str:
    """Device, inode and offset of the file that an array lies in."""
    address = data.ctypes.data
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, _, offset, device, inode, *_ = line.split()
            first, last = (int(end, 16) for end in span.split("-"))
            if first <= address < last:
                return f"{device} {inode} {int(offset, 16) + address - first}"
    raise LookupError("an array lies in no mapping")


def main() -> None:
    """Print what two readers on the far node and one on the near one have found."""
    store = {"object_store_memory": 100 << 20, "num_cpus": 1}
    cluster = Cluster(
        initialize_head=True, head_node_args={**store, "resources": {"near": 1}, "include_dashboard": False}
    )
    cluster.add_node(**store, resources={"far": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        specs = [TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS]
        layout, chunks = put(specs, [TENSORS[index : index + 2] for index in range(0, len(TENSORS), 2)])
        actor = ray.remote(Reader)
        readers = [actor.options(num_cpus=0, resources={where: 0.1}).remote() for where in ("near", "far", "far")]
        # Nested, as in a payload: an argument of its own Ray would fetch on the caller's behalf.
        found = ray.get([reader.read.remote(layout, chunks) for reader in readers])
        print("RESULT " + json.dumps({"nodes": sorted(live_nodes()), "chunks": len(chunks), "readers": found}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
