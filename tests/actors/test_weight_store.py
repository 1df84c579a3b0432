"""Weights in Ray's object store: what is put is what is fetched, and each host holds it once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from boxmed_ray.actors.weight_digest import WeightDigest, checked
from boxmed_ray.actors.weight_file import TensorSpec, WeightFileError
from boxmed_ray.actors.weight_store import fetch, layout_specs, put

TENSORS = {
    "a": torch.randn(3, 5),
    "b": torch.randn(7).to(torch.bfloat16),
    "scalar": torch.tensor(2.5, dtype=torch.float16),
    "transposed": torch.randn(4, 2).t(),
}
SPECS = [TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()]
BUCKETS = [list(TENSORS.items())[:1], list(TENSORS.items())[1:]]


@pytest.mark.ray
def test_what_is_put_is_fetched_bucket_by_bucket_and_nobody_can_write_to_it(ray_cluster: None) -> None:
    layout, chunks = put(SPECS, BUCKETS)
    assert [len(chunk) for chunk in layout] == [1, 3]
    assert len(chunks) == 2
    assert layout_specs(layout) == SPECS
    found = list(fetch(layout, chunks))
    assert [spec for spec, _ in found] == SPECS
    for spec, data in found:
        assert torch.equal(spec.view(data), TENSORS[spec.name])
        assert not data.flags.writeable


@pytest.mark.ray
def test_a_source_that_contradicts_itself_is_refused(ray_cluster: None) -> None:
    with pytest.raises(WeightFileError, match=r"announced transposed .* and gave nothing more"):
        put(SPECS, [*BUCKETS[:1], BUCKETS[1][:-1]])
    with pytest.raises(WeightFileError, match="announced nothing more and gave a"):
        put(SPECS, [*BUCKETS, BUCKETS[0]])


def test_a_digest_is_of_names_types_shapes_and_bytes_in_order() -> None:
    def of(*tensors: tuple[str, torch.Tensor]) -> str:
        digest = WeightDigest()
        for name, tensor in tensors:
            digest.add_tensor(name, tensor)
        return digest.hex()

    one, other = ("w", torch.zeros(2, 3)), ("v", torch.ones(2))
    assert of(one, other) == of(("w", torch.zeros(2, 3)), ("v", torch.ones(2)))
    different = [
        of(other, one),
        of(one),
        of(("x", torch.zeros(2, 3)), other),
        of(("w", torch.zeros(3, 2)), other),
        of(("w", torch.zeros(2, 3, dtype=torch.float16)), other),
        of(one, ("v", torch.tensor([1.0, 1.0000001]))),
    ]
    assert len({of(one, other), *different}) == len(different) + 1


def test_without_a_digest_nothing_is_compared_and_with_a_wrong_one_the_end_is_an_error() -> None:
    pair = (TensorSpec("w", torch.float32, (1,)), torch.zeros(1).view(torch.uint8).numpy())
    assert list(checked([pair], None, "version 3")) == [pair]
    passed = checked([pair], "0" * 32, "version 3")
    assert next(passed) == pair
    with pytest.raises(WeightFileError, match=r"version 3 is damaged: its digest is [0-9a-f]{32}, and 0{32} was sent"):
        next(passed)


@pytest.mark.slow
@pytest.mark.ray
def test_a_host_fetches_a_version_once_however_many_of_its_workers_read_it() -> None:
    program = Path(__file__).with_name("two_hosts_program.py")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    result = json.loads(line.removeprefix("RESULT "))
    near, far, too = result["readers"]
    assert sorted({near[0], far[0]}) == result["nodes"]
    assert far[0] == too[0]
    assert near[1] == far[1] == too[1] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert far[2] == too[2]  # the same bytes of the same shared memory
    assert not set(far[2]) & set(near[2])
