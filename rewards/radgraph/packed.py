"""Linear layers in the layout that oneDNN multiplies fastest on a CPU.

What lives here: the layer and the exchange. What does not: when it is worth it (annotate.py).

Weights are laid out once instead of at every call, which makes an encoder of BERT's size a quarter faster, and a row
of the result does not depend on how many rows there are, as it does with MKL. The two operators are those that
``torch.compile`` emits on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ROWS_EXPECTED = 512


class PackedLinear(nn.Module):
    """What ``linear`` computes, for inference in float32 on a CPU; its weight cannot be read back."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS_EXPECTED)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """[..., inputs] → [..., outputs]."""
        return torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")


def pack(module: nn.Module) -> None:
    """Exchange every linear layer inside ``module``; does nothing where PyTorch comes without oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, PackedLinear(child))
