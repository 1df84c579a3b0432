"""A digest of every parameter of a backbone: two models are the same, bit for bit, when their digests are.

What lives here: hashing. What does not: loading models.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import torch
from torch import nn

_PEFT_PREFIX = "base_model.model."
_ADAPTER = re.compile(r"\.(?:lora_|modules_to_save\.)")


def backbone_digest(model: nn.Module) -> str:
    """sha256 over the parameters of a model, the same with and without a PEFT adapter around it.

    Adapter parameters are left out and PEFT's renaming is undone, so that the digest before the adapter
    stage compares with the one after it.
    """
    return parameters_digest(
        (name.removeprefix(_PEFT_PREFIX).replace(".base_layer.", "."), parameter)
        for name, parameter in model.named_parameters()
        if _ADAPTER.search(name) is None
    )


def parameters_digest(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """sha256 in hex over name, type, shape and bytes of every tensor, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(parameters, key=lambda item: item[0]):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
