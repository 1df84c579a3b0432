"""oneDNN's layout computes what the plain layer does, the same for a row whatever stands beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rewards.radgraph.packed import PackedLinear, pack

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch comes without oneDNN here")


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_equals_the_plain_one(bias: bool):
    plain = nn.Linear(96, 40, bias=bias)
    rows = torch.randn(3, 7, 96)
    torch.testing.assert_close(PackedLinear(plain)(rows), plain(rows), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_row_does_not_depend_on_how_many_there_are():
    packed, rows = PackedLinear(nn.Linear(768, 768)), torch.randn(300, 768)
    whole = packed(rows)
    for count in (1, 2, 54, 299):
        assert torch.equal(packed(rows[:count].contiguous()), whole[:count])


@torch.inference_mode()
def test_every_linear_layer_of_a_module_is_exchanged():
    module = nn.Sequential(nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 2)]), nn.ReLU())
    pack(module)
    assert not [child for child in module.modules() if isinstance(child, nn.Linear)]
