"""One learner rank: a process that holds a shard of the optimiser, learns groups and gives its weights away.

What lives here: the update (encode, reference pass, loss, step) and its numbers, checkpoints, the
model at the end. What does not: the handle on all ranks (learner_group.py), the split of a batch
(learn_batch.py), the loss (grpo/), the forward pass (model/shared_prefix.py).

A plain class: ``ray.remote`` is applied by the group, and a test can hold one without Ray.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from boxmed_ray.actors.learn_batch import LearnBatch, LearnGroup
from boxmed_ray.actors.micro_batch import MicroBatch, stack
from boxmed_ray.actors.weight_backend import Backend
from boxmed_ray.actors.weight_fleet import PushReport
from boxmed_ray.actors.weight_push import Publication
from boxmed_ray.checkpoint import CheckpointStore
from boxmed_ray.config import RunConfig
from boxmed_ray.grpo.loss import LossInputs, LossSettings, Normaliser, grpo_loss, kl_in_reward
from boxmed_ray.grpo.metrics import LossMetrics
from boxmed_ray.model import policy
from boxmed_ray.model.collate import GroupEncoder
from boxmed_ray.model.engine import Engine
from boxmed_ray.model.engine_state import full_state_dict, load_checkpoint, write_checkpoint
from boxmed_ray.model.reference import Reference, make_reference
from boxmed_ray.model.shared_prefix import ResponsePolicy
from boxmed_ray.model.trainable import select_trainable

if TYPE_CHECKING:
    from boxmed_ray.actors.weight_sender import WeightSender


class LearnerRank:
    """Rank ``rank`` of ``world_size`` learners.

    Args:
        config: of the run.
        model_folder: the policy to start from, and the frozen reference.
        rank: of this process.
        world_size: ranks in all.
        image_cache: folder of resized images (data/images.py), or None.
    """

    def __init__(
        self, config: RunConfig, model_folder: Path, rank: int, world_size: int, image_cache: Path | None = None
    ) -> None:
        self._config, self._settings, self._folder = config, config.svr, model_folder
        self._image_cache = image_cache
        self.rank, self.world_size = rank, world_size
        self._seconds: dict[str, float] = {}
        self._prepared: list[MicroBatch] | None = None

    def address(self) -> tuple[str, int]:
        """This host and a port that is free on it, where rank 0 meets the others."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def connect(self, address: tuple[str, int]) -> int:
        """Join the other ranks at rank 0's ``address``, load the model and build the engine; returns the rank."""
        torch.set_num_threads(self._config.resources.threads)
        torch.manual_seed(self._config.seed)
        gpu = torch.cuda.is_available()
        os.environ |= {"RANK": str(self.rank), "WORLD_SIZE": str(self.world_size), "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": address[0], "MASTER_PORT": str(address[1])}
        if not dist.is_initialized():
            dist.init_process_group("nccl" if gpu else "gloo", rank=self.rank, world_size=self.world_size)
        settings, bfloat16 = self._settings, self._config.model.dtype == "bfloat16"
        dtype = torch.bfloat16 if bfloat16 else torch.float32
        model = policy.load_policy(self._folder, dtype)
        self._adapted = adapted = select_trainable(model, settings.train)
        if self._config.model.gradient_checkpointing:
            policy.recompute_layers(model)
        self._model = model.train()
        self._processor = policy.load_processor(self._folder)
        self._banned = policy.vision_token_ids(self._processor.tokenizer)
        self._encoder = GroupEncoder(self._processor, self._config.data.image_size, self._image_cache)
        total = settings.steps * settings.inner_epochs
        self._engine = Engine(ResponsePolicy(model), settings, total, bfloat16=bfloat16)
        self._reference: Reference | None = None
        if settings.kl_beta:
            on_cpu = settings.reference_device == "cpu"
            self._reference = make_reference(self._engine, adapted, self._folder, dtype, on_cpu)
        self._loss_settings = LossSettings(
            clip_low=settings.clip_low, clip_high=settings.clip_high, dual_clip=settings.dual_clip,
            ratio=settings.ratio, aggregation=settings.aggregation,
            constant_length=settings.constant_length or settings.max_new_tokens,
            kl_beta=settings.kl_beta if settings.kl_in == "loss" else 0.0, kl_kind=settings.kl_kind,
            importance_cap=settings.importance_cap,
        )  # fmt: skip
        return self.rank

    def ready(self) -> bool:
        """Answers once ``connect`` has."""
        return True

    def preload(self) -> None:
        """Import vLLM's side of a weight push now: ten seconds that the first push need not take."""
        import boxmed_ray.actors.weight_sender  # noqa: F401

    @property
    def weight_version(self) -> int:
        """Updates taken."""
        return self._engine.updates

    def measure_kl(self, batch: LearnBatch) -> dict[int, NDArray[np.float32]]:
        """KL of the sampler's policy to the reference, summed over each response, by the number of its group.

        What is computed for it is kept for the ``learn`` of the same batch that follows, where the
        advantages may be others. All ranks call it: under ZeRO 3 the reference may be collective.
        """
        self._seconds = {}
        self._prepared = self._prepare(batch)
        divergences: dict[int, NDArray[np.float32]] = {}
        for micro in self._prepared:
            if micro.filler:
                continue
            assert micro.reference is not None  # the config asks for a KL in the reward only with kl_beta > 0
            kl = kl_in_reward(micro.sampled, micro.reference, micro.mask, self._settings.kl_kind).cpu()
            divergences |= {n: part.numpy() for n, part in zip(micro.numbers, kl.split(micro.counts), strict=True)}
        return divergences

    def learn(self, batch: LearnBatch) -> dict[str, Any]:
        """One update (``inner_epochs`` of them) on this rank's part of a batch; all ranks call it together.

        The first epoch's log-probabilities are the old ones of all that follow.

        Returns:
            The same metrics on every rank: those of ``LossMetrics.as_dict``, loss, grad_norm, lr,
            updated (share of the epochs whose step was taken), weight_version; and of this rank alone
            ``seconds`` by part and ``bad_samples``, ids of prompts with a non-finite loss.
        """
        if self._prepared is None:
            self._seconds = {}
            micros = self._prepare(batch)
        else:
            micros, self._prepared = self._prepared, None
            for micro, groups in zip(micros, batch.micro, strict=True):
                micro.weigh(groups)
        normaliser = Normaliser(batch.tokens, batch.sequences)
        taken, metrics = 0, LossMetrics.empty()
        for _ in range(self._settings.inner_epochs):
            metrics, loss = LossMetrics.empty(), torch.zeros((), dtype=torch.float64)
            for micro in micros:
                part, numbers = self._accumulate(micro, normaliser)
                metrics, loss = (metrics, loss) if micro.filler else (metrics.merge(numbers), loss + part)
            with self._timed("step"):
                outcome = self._engine.step()
            taken += outcome.taken
        with self._timed("metrics"):
            self._reduce(metrics, loss)
        return {
            **metrics.as_dict(),
            "loss": float(loss),
            "grad_norm": outcome.grad_norm,
            "lr": outcome.lr,
            "updated": taken / self._settings.inner_epochs,
            "weight_version": self.weight_version,
            "seconds": self._seconds,
            "bad_samples": [identity for micro in micros for identity in micro.bad],
        }

    def publish_weights(self, backend: Backend, keep: Sequence[str]) -> Publication | None:
        """Put the present weights where workers read them (weight_sender.py); all ranks call it, rank 0 publishes."""
        if self.rank and self._engine.stage < 3:
            return None  # every rank holds whole parameters: there is nothing to take part in
        return self._sender.publish(backend, self.weight_version, keep)

    def transfer_weights(self, backend: Backend, workers: Sequence[tuple[str, Any]]) -> PushReport | None:
        """Send the present weights by a collective with ``workers``; all ranks call it, rank 0 sends."""
        return self._sender.transfer(backend, self.weight_version, workers)

    def save_checkpoint(self, folder: Path, step: int, state: dict[str, Any], score: float | None = None) -> None:
        """Write a checkpoint into the store at ``folder``; all ranks call it, rank 0 writes.

        ``state`` is the driver's: data position, reward statistics. ``score`` tells the best one.
        """
        store = CheckpointStore(folder, self._settings.keep_checkpoints)
        write_checkpoint(self._engine, store, step, {**state, "weight_version": self.weight_version}, score)

    def load_checkpoint(self, folder: Path) -> None:
        """Go to the checkpoint in ``folder``, which is whole; all ranks call it."""
        load_checkpoint(self._engine, folder)

    def save_model(self, folder: Path) -> None:
        """Write a folder that transformers and vLLM load, LoRA merged, beside and renamed; all ranks call it."""
        state = full_state_dict(self._engine.module, self.rank, merged=True)
        if self.rank == 0:
            temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
            own = {name.removeprefix("model."): value for name, value in state.items()}
            self._model.save_pretrained(temporary, state_dict=own)
            self._processor.save_pretrained(temporary)
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before the stage was marked done
            temporary.rename(folder)
        dist.barrier()

    def shutdown(self) -> None:
        """Remove what is kept in shared memory."""
        if "_sender" in self.__dict__:
            self._sender.shutdown()

    @cached_property
    def _sender(self) -> WeightSender:
        """Importing what it needs takes ten seconds: where nothing is pushed, nobody waits."""
        from boxmed_ray.actors.weight_sender import WeightSender

        resources = self._config.resources
        return WeightSender(
            self._model, self._adapted, self.rank,
            timeout_s=resources.phase_timeout_s, checked=resources.check_weights, address=self.address,
        )  # fmt: skip

    def _prepare(self, batch: LearnBatch) -> list[MicroBatch]:
        with self._timed("encode"):
            micros = [self._encode(groups) for groups in batch.micro]
        with self._timed("reference"):
            self._fill_reference(micros)
        return micros

    def _encode(self, groups: list[LearnGroup]) -> MicroBatch:
        inputs = []
        for group in groups:
            ids = torch.from_numpy(group.token_ids.copy()).split(group.lengths.tolist())
            inputs.append(self._encoder.group(Path(group.image), group.task, group.phrase, ids))
        return MicroBatch(groups, inputs, self._engine.device)

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        return {"mode": settings.shared_prompt, "banned_ids": self._banned, "temperature": settings.temperature}

    def _fill_reference(self, micros: list[MicroBatch]) -> None:
        """Put the reference's log-probabilities into the micro-batches, where there is a reference."""
        if self._reference is None:
            return
        with self._reference.ready() as forward:
            for micro in micros:
                if self._reference.collective or not micro.filler:
                    micro.reference = stack(forward(micro.inputs, **self._options()).logprobs)

    def _accumulate(self, micro: MicroBatch, normaliser: Normaliser) -> tuple[Tensor, LossMetrics]:
        """Forward and backward of one micro-batch: its part of the loss, and its metrics."""
        with self._timed("forward"):
            out = self._engine(micro.inputs, with_entropy=True, **self._options())
            logprobs, mask, entropy = stack(out.logprobs), micro.mask, stack(out.entropy)
            if micro.filler:
                loss, metrics = logprobs.masked_fill(~mask, 0.0).sum() * 0.0, LossMetrics.empty()
            else:
                # No second pass: before the first step of a batch the policy is the old policy.
                old, micro.old = micro.old, logprobs.detach() if micro.old is None else micro.old
                sampled = LossInputs(logprobs, mask, micro.advantages, old, micro.sampled, micro.reference, entropy)
                loss, metrics = grpo_loss(sampled, self._loss_settings, normaliser)
                if not bool(torch.isfinite(loss)):
                    micro.bad = micro.blame(logprobs) or list(dict.fromkeys(micro.ids))
        with self._timed("backward"):
            self._engine.backward(loss)
        return loss.detach().double().cpu(), metrics

    def _reduce(self, metrics: LossMetrics, loss: Tensor) -> None:
        """Add up over ranks, in place."""
        device = self._engine.device if dist.get_backend() == "nccl" else torch.device("cpu")
        sums = torch.cat([metrics.sums, loss[None]]).to(device)
        largest = metrics.largest.to(device)
        dist.all_reduce(sums)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        metrics.sums, metrics.largest = sums[:-1].cpu(), largest.cpu()
        loss.copy_(sums[-1])

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - begin
