"""The sides of the learner benchmark: our modes, replicated rows, and TRL's GRPOTrainer, each one forward and backward.

What lives here: one loss step of each on the same batch. What does not: clocks and shapes.

The loss is the same everywhere: clipped policy loss averaged over tokens, no KL term, entropy measured as TRL always
does, float32, no autocast, no gradient checkpointing, all responses in one micro-batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _learner_cases import Batch
from torch.nn.utils.rnn import pad_sequence

from boxmed_ray.grpo.loss import LossInputs, LossSettings, Normaliser, grpo_loss
from boxmed_ray.model import policy
from boxmed_ray.model.shared_prefix import Mode, response_logprobs


class Side:
    """One side: a model of its own and a step that leaves gradients on it."""

    def __init__(self, model: Any, loss: Callable[[], torch.Tensor]) -> None:
        self.model = model
        self._loss = loss

    def step(self) -> float:
        """Forward and backward from cleared gradients; returns the loss."""
        loss = self._loss()
        loss.backward()
        return loss.item()

    def clear(self) -> None:
        """Forget the gradients."""
        self.model.zero_grad(set_to_none=True)

    def gradients(self) -> dict[str, torch.Tensor]:
        """The gradient of every parameter that has one."""
        return {name: p.grad.detach() for name, p in self.model.named_parameters() if p.grad is not None}


def build_side(name: str, folder: Path, batch: Batch) -> Side:
    """``trl``, or one of our modes."""
    return trl(folder, batch) if name == "trl" else ours(folder, batch, name)  # type: ignore[arg-type]


def ours(folder: Path, batch: Batch, mode: Mode) -> Side:
    """This project's learner in ``mode``."""
    model: Any = policy.load_policy(folder).train()

    def loss() -> torch.Tensor:
        out = response_logprobs(model, [batch.group], mode=mode, with_entropy=True)
        logprobs, mask, entropy = out.stacked()
        inputs = LossInputs(logprobs, mask, batch.advantages, entropy=entropy)
        return grpo_loss(inputs, LossSettings(), Normaliser(batch.tokens, len(batch.advantages)))[0]

    return Side(model, loss)


def trl(folder: Path, batch: Batch) -> Side:
    """TRL's own loss step on its own inputs: prompt and image repeated for every response, prompts left-padded."""
    from datasets import Dataset
    from transformers.utils import logging
    from trl import GRPOConfig, GRPOTrainer

    logging.set_verbosity_error()
    group = batch.group
    count, settings = len(group.responses), LossSettings()
    with tempfile.TemporaryDirectory() as temporary:
        arguments = GRPOConfig(
            output_dir=temporary, use_cpu=True, bf16=False, model_init_kwargs={"dtype": "float32"},
            gradient_checkpointing=False, per_device_train_batch_size=count, gradient_accumulation_steps=1,
            num_generations=count, max_completion_length=max(map(len, group.responses)), beta=0.0, loss_type="dapo",
            epsilon=settings.clip_low, epsilon_high=settings.clip_high, report_to="none", logging_strategy="no",
            save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=str(folder), args=arguments, reward_funcs=_no_reward, processing_class=policy.load_processor(folder),
            train_dataset=Dataset.from_dict({"prompt": ["none"]}),
        )  # fmt: skip
    model: Any = trainer.model
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = _trl_inputs(batch, model.config.image_token_id)
    return Side(model, lambda: trainer.compute_loss(model, inputs))


def _trl_inputs(batch: Batch, image_token: int) -> dict[str, Any]:
    group = batch.group
    count = len(group.responses)
    completions = pad_sequence(group.responses, batch_first=True)
    mask = pad_sequence([torch.ones_like(ids) for ids in group.responses], batch_first=True)
    prompts = group.prompt_ids.repeat(count, 1)
    ids = torch.cat([prompts, completions], 1)
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": completions,
        "completion_mask": mask,
        "advantages": batch.advantages,
        "pixel_values": group.pixel_values.repeat(count, 1),
        "image_grid_thw": group.image_grid_thw.repeat(count, 1),
        "num_images": [1] * count,
        "mm_token_type_ids": (ids == image_token).int(),
        "num_items_in_batch": torch.tensor(batch.tokens),
    }


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)
