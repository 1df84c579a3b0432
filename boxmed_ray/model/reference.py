"""The frozen reference of the KL term: the policy as it was when the stage began.

What lives here: the two ways to have one, and which of them a learner takes. What does not: the KL (grpo/loss.py).

``DisabledAdapter``  the policy itself with its LoRA switched off; costs no memory. Only where nothing but LoRA trains.
``FrozenCopy``       a second model, which may wait in host memory between its passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from boxmed_ray.model.engine import Engine
from boxmed_ray.model.policy import load_policy
from boxmed_ray.model.shared_prefix import ResponseLogprobs, response_logprobs
from boxmed_ray.model.trainable import only_lora_trains

if TYPE_CHECKING:
    from peft import PeftModel

Forward = Callable[..., ResponseLogprobs]
"""Takes groups and the options of ``response_logprobs``."""


class Reference(Protocol):
    """A policy that does not change."""

    @property
    def collective(self) -> bool:
        """Whether all ranks must call the forward pass equally often."""
        ...

    def ready(self) -> AbstractContextManager[Forward]:
        """Its forward pass without gradient, for as long as the context lasts."""
        ...


class DisabledAdapter:
    """The engine's own policy without its LoRA.

    Args:
        engine: around a ``ResponsePolicy`` of which only LoRA trains.
        adapted: PEFT's handle on that LoRA.
    """

    def __init__(self, engine: Engine, adapted: PeftModel) -> None:
        self._engine, self._adapted = engine, adapted
        self.collective = engine.stage == 3  # a forward pass gathers parameters from all ranks

    @contextmanager
    def ready(self) -> Iterator[Forward]:
        """See ``Reference``."""
        with torch.no_grad(), self._adapted.disable_adapter():
            yield self._engine


class FrozenCopy:
    """A model of its own.

    Between passes it is at ``home``. For a pass its tensors are copied to ``device`` and dropped there afterwards;
    those at home stay where they are, as nothing changes them, so that nothing is copied back. Computing on the host
    instead would save the copy and cost far more than it: a pass over a batch is thousands of operations a weight.

    Args:
        model: frozen here.
        device: where it computes.
        home: where it is between passes.
    """

    collective = False

    def __init__(self, model: nn.Module, device: torch.device, home: torch.device) -> None:
        self.model = model.to(home).requires_grad_(False)
        self._device = device

    @contextmanager
    def ready(self) -> Iterator[Forward]:
        """See ``Reference``."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        at_home = [tensor.data for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.data = tensor.data.to(self._device)
            with torch.no_grad():
                yield self._forward
        finally:
            for tensor, kept in zip(tensors, at_home, strict=True):
                tensor.data = kept

    def _forward(self, *args: Any, **options: Any) -> ResponseLogprobs:
        return response_logprobs(self.model, *args, **options)


def make_reference(
    engine: Engine, adapted: PeftModel | None, folder: Path, dtype: torch.dtype, on_cpu: bool
) -> Reference:
    """The reference that costs least.

    Args:
        engine: of the policy that trains.
        adapted: PEFT's handle on its LoRA, None without.
        folder: of the model that the stage started from.
        dtype: of the copy's weights.
        on_cpu: keep a copy in host memory between its passes.
    """
    if adapted is not None and only_lora_trains(engine.module):
        return DisabledAdapter(engine, adapted)
    home = torch.device("cpu") if on_cpu else engine.device
    return FrozenCopy(load_policy(folder, dtype), engine.device, home)
