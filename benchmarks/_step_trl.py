"""TRL's side of the step benchmark: ``GRPOTrainer`` on the same model, prompts, rewards and settings.

What lives here: its configuration, the reward function, the dataset, its clock. What does not: ours.

Settings are those that serve TRL best here: float32 without autocast, no gradient checkpointing (its
default recomputes every forward pass), one micro-batch for the whole step, no logging, no saving, no
evaluation, the vision placeholders suppressed in sampling as ours are. It generates with
transformers: its vLLM paths do not run on a CPU.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _common import cpu_seconds, median, pin_tree
from _step_cases import Case
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer

from boxmed_ray.actors.types import Prompt
from boxmed_ray.config import RunConfig
from boxmed_ray.data.images import load_square
from boxmed_ray.data.prompts import instruction, parse_answer
from boxmed_ray.model import policy
from rewards.registry import build
from rewards.sample import Sample


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer that notes the seconds of its generation and scoring, and its responses' lengths."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds: list[dict[str, float]] = []
        self.lengths: list[int] = []
        self.prompt_tokens: list[int] = []

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.seconds.append({})
        return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        with self._timed("generate"):
            completion_ids, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        self.prompt_tokens.append(len(prompt_ids[0]))
        self.lengths += [len(ids) for ids in completion_ids]
        return completion_ids, logprobs

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self._timed("score"):
            return super()._calculate_rewards(*args, **kwargs)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[-1][name] = time.perf_counter() - began


class StepEnds(TrainerCallback):
    """Notes when each step has ended, and the processor time at the end of step ``warm``."""

    def __init__(self, warm: int) -> None:
        self.warm = warm
        self.at: list[float] = []
        self.cpu_s = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time."""
        if len(self.at) + 1 == self.warm:
            self.cpu_s = -sum(cpu_seconds().values())
        self.at.append(time.perf_counter())


def measure(case: Case, warm: int, core: int, micro_batch: int | None = None) -> dict[str, Any]:
    """Train all steps of ``case`` and time those after the first ``warm``.

    ``micro_batch`` is the number of responses of one forward and backward pass, by default all.
    """
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    ends = StepEnds(warm)
    with tempfile.TemporaryDirectory() as folder:
        processor: Any = policy.load_processor(case.model)
        processor.tokenizer.padding_side = "left"  # GRPOTrainer requires it of a processor that is handed to it
        trainer = TimedTrainer(
            model=str(case.model),
            args=_arguments(case, processor, folder, micro_batch or case.shape.samples),
            reward_funcs=_reward_function(case.config, processor.tokenizer.eos_token_id),
            train_dataset=_dataset(case),
            processing_class=processor,
            callbacks=[ends],
        )
        pin_tree(core)
        trainer.train()
        ends.cpu_s += sum(cpu_seconds().values())
    walls = [after - before for before, after in zip(ends.at, ends.at[1:], strict=False)][warm - 1 :]
    seconds, samples = trainer.seconds[warm:], case.shape.samples
    lengths = trainer.lengths[warm * samples :]
    phases = {name: median([step[name] for step in seconds]) for name in ("generate", "score")}
    return {
        "step_s": median(walls),
        "cpu_s": round(ends.cpu_s / len(walls), 4),
        "steps_s": [round(wall, 4) for wall in walls],
        "phases_s": phases | {"rest": round(median(walls) - sum(phases.values()), 4)},
        "response_tokens": round(sum(lengths) / len(lengths), 2),
        "truncated": round(sum(length == case.shape.cap for length in lengths) / len(lengths), 4),
        "prompt_tokens": median(trainer.prompt_tokens, 0),
    }


def _arguments(case: Case, processor: Any, folder: str, micro_batch: int) -> GRPOConfig:
    svr, samples = case.config.svr, case.shape.samples
    return GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=samples // micro_batch,
        num_generations=svr.group_size,
        max_completion_length=svr.max_new_tokens,
        temperature=svr.temperature,
        generation_kwargs={"suppress_tokens": policy.vision_token_ids(processor.tokenizer)},
        max_steps=svr.steps,
        shuffle_dataset=False,
        learning_rate=svr.lr,
        lr_scheduler_type="constant",
        weight_decay=svr.weight_decay,
        adam_beta2=svr.adam_beta2,
        max_grad_norm=svr.grad_clip,
        beta=svr.kl_beta,
        use_bias_correction_kl=False,
        epsilon=svr.clip_low,
        epsilon_high=svr.clip_high,
        loss_type="dapo",
        seed=case.config.seed,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _dataset(case: Case) -> Dataset:
    """The prompts in order; each image is opened once, as on our side."""
    side = case.config.data.image_size

    @functools.lru_cache(maxsize=64)
    def image(path: str) -> Image.Image:
        return load_square(Path(path), side)

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [case.prompts[i] for i in batch["index"]]
        turns = [[{"role": "user", "content": instruction(prompt.task, prompt.phrase)}] for prompt in chosen]
        return {"prompt": turns, "image": [image(prompt.image) for prompt in chosen], "asked": chosen}

    return Dataset.from_dict({"index": list(range(len(case.prompts)))}).with_transform(rows)


def _reward_function(config: RunConfig, end: int) -> Any:
    composite = build(config.svr.rewards)
    side = config.data.image_size

    def sample(text: str, ids: list[int], prompt: Prompt) -> Sample:
        truncated = not ids or ids[-1] != end
        answer = parse_answer(text, prompt.width, prompt.height, config.data.coordinates, side)
        formed = answer.well_formed and not truncated
        return Sample(text, answer.boxes, formed, prompt.targets, prompt.target_text, truncated)

    def reward(
        completions: list[list[dict[str, str]]], completion_ids: list[list[int]], asked: list[Prompt], **_: Any
    ) -> list[float]:
        texts = [turns[0]["content"] for turns in completions]
        batch = [sample(*parts) for parts in zip(texts, completion_ids, asked, strict=True)]
        return [score.value for score in composite.score(batch)]

    return reward
