"""What one Ray Train worker of a supervised stage does: the training loop itself.

What lives here: which example comes when, the loss, checkpoints, the last save. What does not: Ray
(supervised.py starts this function on every worker), the engine (model/engine.py).

The position of a stage is one number, the step: order is a function of seed and epoch, the learning
rate of the step, so a resumed run goes on exactly.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from boxmed_ray.checkpoint import Checkpoint, CheckpointStore
from boxmed_ray.config import AdapterConfig, MCLConfig, RunConfig
from boxmed_ray.data.prompts import Task
from boxmed_ray.model.dealing import deal
from boxmed_ray.stages.prefetch import Prefetch
from boxmed_ray.stages.watch import BadSteps

log = logging.getLogger(__name__)

Kind = Literal["mcl", "adapter"]

PROGRESS, STOP, RESULT, CHECKPOINTS = "progress.jsonl", "stop", "result.json", "checkpoints"
DIVERGED = "diverged.txt"
"""Why the workers gave up, for the driver: an error of their own would come with Ray Train's tracebacks."""


class Row(NamedTuple):
    """An Example as it travels to workers: the image by path, nothing that only evaluation needs."""

    image: str
    task: str
    phrase: str | None
    response: str


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs.

    Attributes:
        kind: "mcl" trains what ``config.mcl.train`` says; "adapter" what ``config.adapter.train`` says.
        out_folder: gets ``model`` or ``adapter``, ``checkpoints`` and the progress file.
        checkpoint: to go on from, whole; None starts at step 0.
        image_cache: folder of resized images (data/images.py), or None.
    """

    kind: Kind
    config: RunConfig
    model_folder: Path
    out_folder: Path
    rows: list[Row]
    checkpoint: Checkpoint | None = None
    image_cache: Path | None = None

    @property
    def settings(self) -> MCLConfig | AdapterConfig:
        """The stage's part of the config."""
        return self.config.mcl if self.kind == "mcl" else self.config.adapter

    @property
    def writes(self) -> Literal["model", "adapter"]:
        """``adapter`` where LoRA on a frozen backbone is all that the adapter stage trains."""
        return "adapter" if self.kind == "adapter" and self.config.adapter.train.adapter_alone else "model"


def batch_indices(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """Which of ``count`` examples step ``step`` (from 0) trains on.

    Every epoch is a permutation of its own; a batch may end one epoch and begin the next.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [_epoch_order(count, seed, position // count)[position % count] for position in positions]


@functools.lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"order/{seed}/{epoch}").sample(range(count), count)


def share_of(indices: Sequence[int], lengths: Sequence[int], rank: int, ranks: int) -> list[int]:
    """The part of a batch that ``rank`` trains on: about as many tokens as the others have.

    Longest first, each to the rank with the least so far. Every rank gets one at least where there
    are enough: a rank without a forward pass would leave the others waiting.
    """
    ordered = sorted(indices)
    # One more than its length, as an example of length 0 is a forward pass too.
    return [ordered[i] for i in deal([lengths[index] + 1 for index in ordered], ranks)[rank]]


def train_loop(job: Job) -> None:
    """Train, checkpoint and save; run by every worker under an initialised process group."""
    torch.set_num_threads(job.config.resources.threads)
    torch.manual_seed(job.config.seed)
    Worker(job).run()


class Worker:
    """One rank of a supervised stage."""

    def __init__(self, job: Job) -> None:
        # Imported here: importing this module must stay cheap for the driver.
        from boxmed_ray.model import policy
        from boxmed_ray.model.collate import GroupEncoder
        from boxmed_ray.model.engine import Engine
        from boxmed_ray.model.shared_prefix import ResponsePolicy
        from boxmed_ray.model.trainable import select_trainable

        self.job, self.rank = job, dist.get_rank()
        bfloat16 = job.config.model.dtype == "bfloat16"
        backbone = policy.load_policy(job.model_folder, torch.bfloat16 if bfloat16 else torch.float32)
        adapted = select_trainable(backbone, job.settings.train)
        if job.config.model.gradient_checkpointing:
            policy.recompute_layers(backbone)
        # PEFT puts LoRA into the backbone's own layers; its handle is needed for saving an adapter only.
        self.model: nn.Module = backbone if adapted is None or job.writes == "model" else adapted
        backbone.train()
        self.processor = policy.load_processor(job.model_folder)
        self.engine = Engine(ResponsePolicy(backbone), job.settings, job.settings.steps, bfloat16=bfloat16)
        self.encoder = GroupEncoder(self.processor, job.config.data.image_size, job.image_cache)
        self.store = CheckpointStore(job.out_folder / CHECKPOINTS, job.settings.keep_checkpoints)
        self.frozen = self._backbone_digest() if job.writes == "adapter" else None
        self.bad = BadSteps(job.settings.max_bad_steps, f"{job.kind}.max_bad_steps")
        self.step = self._resume()

    def run(self) -> None:
        """Steps until the stage is done or the driver asks to stop; either leaves a checkpoint.

        Too many steps in a row that are not finite end it without one, and with a word to the driver.
        """
        settings, stopped = self.job.settings, False
        threads = functools.partial(torch.set_num_threads, self.job.config.resources.threads)
        with Prefetch(self._batch, self.step, settings.steps, initializer=threads) as batches:
            while self.step < settings.steps and not stopped:
                stopped = self._train_step(batches)
                if self.bad.too_many:
                    self._give_up()
                    return
                if self.step % settings.checkpoint_every == 0 or stopped or self.step == settings.steps:
                    self._checkpoint()
        if self.step == settings.steps:
            self._finish()

    def _batch(self, step: int) -> tuple[list[int], list[Any]]:
        """Which examples this rank trains on in ``step``, and their tensors."""
        rows = self.job.rows
        batch = batch_indices(step, self.job.settings.batch_size, len(rows), self.job.config.seed)
        lengths = {i: len(rows[i].response) for i in batch}
        mine = share_of(batch, lengths, self.rank, self.engine.world_size)  # type: ignore[arg-type]
        return mine, [self._encode(rows[i]) for i in mine]

    def _train_step(self, batches: Prefetch[tuple[list[int], list[Any]]]) -> bool:
        """One update; whether the driver wants to stop after it."""
        begin = time.perf_counter()
        mine, groups = batches.take()
        # Known before the forward pass, so that every rank divides by the tokens of the whole batch.
        tokens = sum(len(response) for group in groups for response in group.responses)
        counts = torch.tensor([tokens, len(groups), self._wants_stop()], device=self.engine.device)
        dist.all_reduce(counts)
        out = self.engine(groups)
        loss = -sum(logprobs.sum() for logprobs in out.logprobs) / int(counts[0])
        self.engine.backward(loss)
        outcome = self.engine.step()
        self.bad.add(taken=outcome.taken, prompts=() if outcome.taken else self._blame(mine, out.logprobs))
        total = loss.detach().clone()
        dist.all_reduce(total)
        self.step += 1
        if self.rank == 0:
            seconds = time.perf_counter() - begin
            self._report(
                loss=total.item(), lr=outcome.lr, grad_norm=outcome.grad_norm, skipped=not outcome.taken,
                tokens=int(counts[0]), seconds=seconds, tokens_per_s=int(counts[0]) / seconds,
                examples=int(counts[1]), data_s=batches.waited,
            )  # fmt: skip
        return bool(counts[2])

    def _blame(self, mine: Sequence[int], logprobs: Sequence[torch.Tensor]) -> list[str]:
        """The examples of all ranks with a log-probability that is not finite; all ranks call it together."""
        rows = [self.job.rows[index] for index in mine]
        own = [
            f"{row.image} ({row.phrase or row.task})"
            for row, part in zip(rows, logprobs, strict=True)
            if not bool(torch.isfinite(part).all())
        ]
        found: list[Any] = [None] * self.engine.world_size
        dist.all_gather_object(found, own)
        names = [name for part in found for name in part]
        if self.rank == 0:
            which = ", ".join(names) or "none by their loss"
            log.error("step %d skipped, loss or gradient not finite; examples: %s", self.step + 1, which)
        return names

    def _give_up(self) -> None:
        if self.rank == 0:
            message = self.bad.message(self.job.kind, self.store.newest())
            (self.job.out_folder / DIVERGED).write_text(message)
        dist.barrier()

    def _encode(self, row: Row) -> Any:
        response = self.encoder.response_ids(row.response)
        return self.encoder.group(Path(row.image), Task(row.task), row.phrase, [response])

    def _wants_stop(self) -> int:
        return int(self.rank == 0 and (self.job.out_folder / STOP).exists())

    def _report(self, **values: Any) -> None:
        line = {"step": self.step, "steps": self.job.settings.steps, "time": time.time(), **values}
        with (self.job.out_folder / PROGRESS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _resume(self) -> int:
        from boxmed_ray.model.engine_state import load_checkpoint

        found = self.job.checkpoint
        if found is None:
            return 0
        load_checkpoint(self.engine, found.folder)
        self.bad.count = found.state.get("bad_steps", 0)
        return found.step

    def _checkpoint(self) -> None:
        from boxmed_ray.model.engine_state import write_checkpoint

        position = {
            "kind": self.job.kind,
            "step": self.step,
            "examples": self.step * self.job.settings.batch_size,
            "bad_steps": self.bad.count,
        }
        write_checkpoint(self.engine, self.store, self.step, position)

    def _finish(self) -> None:
        """Write the trained weights beside and rename them into place; digest the frozen backbone again.

        An adapter is written as it is; LoRA beside parts that are trained whole is merged into the model.
        """
        from boxmed_ray.model.engine_state import full_state_dict

        result: dict[str, Any] = {"steps": self.step}
        if self.frozen is not None:
            result |= {"backbone_before": self.frozen, "backbone_after": self._backbone_digest()}
        name = self.job.writes
        state = full_state_dict(self.engine.module, self.rank, merged=name == "model")
        if self.rank == 0:
            temporary = self.job.out_folder / f".{name}.{os.getpid()}"
            prefix = "" if name == "model" else "base_model.model."
            own = {prefix + key.removeprefix("model."): value for key, value in state.items()}
            self.model.save_pretrained(temporary, state_dict=own)  # type: ignore[operator]
            if name == "model":
                self.processor.save_pretrained(temporary)
            (self.job.out_folder / RESULT).write_text(json.dumps(result, indent=1))
            temporary.rename(self.job.out_folder / name)  # last: its name says that the stage has ended
        dist.barrier()

    def _backbone_digest(self) -> str:
        """Digest of the backbone's parameters under the names that ``load_policy`` gives them."""
        from boxmed_ray.model.engine_state import full_state_dict
        from boxmed_ray.model.policy import digest

        state = full_state_dict(self.engine.module, self.rank)
        names = {key: key.removeprefix("model.").replace(".base_layer.", ".") for key in state}
        return digest((name, state[key]) for key, name in names.items() if ".lora_" not in key)
