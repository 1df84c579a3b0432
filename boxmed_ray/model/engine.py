"""The DeepSpeed engine that every stage trains with, on CPU (gloo) or GPU.

What lives here: building it, the learning-rate schedule, one guarded optimiser step. What does not:
its state by parameter name (engine_state.py), losses and batches (stages/, actors/learner.py).

The optimiser is torch's AdamW, never an op that DeepSpeed compiles at run time. A step is built of
any number of ``backward`` calls followed by ``step``; gradients are summed over calls and ranks, so
a loss divides by a global normaliser and the number of ranks cannot bias it.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

# DeepSpeed chooses its accelerator when it is imported.
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")

import deepspeed
import deepspeed.ops

# Where a compiler is found, DeepSpeed builds its shared-memory collective in the first process group: a minute of
# compiling, and a lock file that hangs every later run when the build was cut short. gloo does without it. An empty
# table says that no op is there, and also saves the compiler runs by which DeepSpeed would fill it.
deepspeed.ops.__compatible_ops__ = {}

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


class OptimizerSettings(Protocol):
    """What SupervisedConfig and SVRConfig have in common."""

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        ...

    @property
    def warmup_steps(self) -> int:
        """Updates of linear warm-up."""
        ...

    @property
    def min_lr_ratio(self) -> float:
        """End of the cosine, relative to the peak."""
        ...

    @property
    def weight_decay(self) -> float:
        """AdamW."""
        ...

    @property
    def adam_beta2(self) -> float:
        """Memory of the squared gradient."""
        ...

    @property
    def grad_clip(self) -> float:
        """Gradient norm above which gradients are scaled down."""
        ...

    @property
    def zero_stage(self) -> int:
        """DeepSpeed ZeRO stage, 0–3."""
        ...


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One optimiser step: the gradient's norm before clipping, and whether the step was taken.

    ``grad_norm`` is infinite or NaN where ``taken`` is False: nothing has changed then.
    """

    grad_norm: float
    taken: bool
    lr: float


def cosine_lr(step: int, settings: OptimizerSettings, total_steps: int) -> float:
    """Learning rate of update ``step`` (from 0): linear warm-up, then a cosine down to ``min_lr_ratio``.

    A pure function of the position, so that a resumed run has nothing to restore.
    """
    warmup = min(settings.warmup_steps, total_steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    floor = settings.lr * settings.min_lr_ratio
    return floor + (settings.lr - floor) * 0.5 * (1 + math.cos(math.pi * progress))


class _GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips by itself and refuses a non-finite gradient.

    Used at ZeRO stage 0 only: the sharding stages have both in DeepSpeed's own step, stage 0 clips
    without keeping the norm and never looks.
    """

    def __init__(self, params: list[nn.Parameter], clip: float, **kwargs: Any) -> None:
        super().__init__(params, **kwargs)
        self._clip = clip
        self.norm = 0.0

    def step(self, closure: Any = None) -> Any:
        params = [p for group in self.param_groups for p in group["params"]]
        self.norm = float(nn.utils.clip_grad_norm_(params, self._clip))
        return super().step(closure) if math.isfinite(self.norm) else None


class Engine:
    """A module under DeepSpeed with AdamW and the schedule of ``settings``.

    Args:
        module: trained where its parameters require gradients; called through ``__call__``, which
            ZeRO-3 needs in order to gather what a forward pass reads.
        settings: optimiser settings.
        total_steps: updates over which the cosine falls.
        bfloat16: train in bfloat16 with float32 master weights (stage 0 then runs as stage 1).

    torch.distributed must be initialised, or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT be set.
    """

    def __init__(
        self, module: nn.Module, settings: OptimizerSettings, total_steps: int, *, bfloat16: bool = False
    ) -> None:
        self.settings, self.total_steps = settings, total_steps
        self.stage = max(1, settings.zero_stage) if bfloat16 else settings.zero_stage
        self.module = module
        trainable = [p for p in module.parameters() if p.requires_grad]
        if not trainable:
            raise ValueError("no parameter of the model requires a gradient: there is nothing to train")
        options: dict[str, Any] = {
            "lr": settings.lr,
            "weight_decay": settings.weight_decay,
            "betas": (0.9, settings.adam_beta2),
        }
        self._guard = _GuardedAdamW(trainable, settings.grad_clip, **options) if self.stage == 0 else None
        optimizer = self._guard or torch.optim.AdamW(trainable, **options)
        self.ds, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, model_parameters=trainable, config=_config(self, bfloat16)
        )
        self.adamw = optimizer
        self.updates = 0

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return torch.device(self.ds.device)

    @property
    def rank(self) -> int:
        """This process's rank."""
        return int(self.ds.global_rank)

    @property
    def world_size(self) -> int:
        """Ranks that train together."""
        return int(self.ds.world_size)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward pass."""
        return self.ds(*args, **kwargs)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of ``loss`` to what the next ``step`` applies.

        ``loss`` is this rank's share of a sum: gradients of all ranks and calls are added up. One that is
        not finite makes the gradient NaN, so that ``step`` is not taken.
        """
        # An infinite loss can have a finite gradient.
        factor = torch.where(torch.isfinite(loss.detach()), 1.0, float("nan"))
        # DeepSpeed averages over ranks; the factor turns that into the sum.
        self.ds.backward(loss * (factor * self.world_size))

    def step(self) -> StepOutcome:
        """Apply the gradients and clear them; all ranks call it together.

        ``updates`` counts taken steps only; the schedule follows it.
        """
        lr = cosine_lr(self.updates, self.settings, self.total_steps)
        for group in self.ds.optimizer.param_groups:
            group["lr"] = lr
        self.ds.step()
        norm = self._guard.norm if self._guard else float(self.ds.get_global_grad_norm() or 0.0)
        taken = math.isfinite(norm)
        self.updates += taken
        return StepOutcome(norm, taken, lr)


def _config(engine: Engine, bfloat16: bool) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # step() is the boundary: the number of backward calls may differ from update to update.
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if engine.stage == 0 else engine.settings.grad_clip,
        "zero_optimization": {
            "stage": engine.stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_bucket_size": 50_000_000,
            "allgather_bucket_size": 50_000_000,
            # Small parameters (norms, biases) stay whole at stage 3: gathering them costs more than they weigh.
            "stage3_param_persistence_threshold": 10_000,
        },
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": bfloat16},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
