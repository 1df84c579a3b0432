"""One in-process vLLM engine on a thread of its own, asked from an event loop.

What lives here: building the engine, the thread that steps it, adapters and their ids. What does not:
what is asked (grounded.py) and HTTP (api.py).

Why in process and not ``AsyncLLM``: measured with this service's load, in process serves 19 requests/s
from 2.3 GB, ``AsyncLLM`` 15 from 3.3 GB, because its engine is always a child process. What the child
would buy, surviving a crash of the engine, Ray Serve gives by replacing the replica. A thread that adds
requests and steps (``LLM.generate`` would hold a whole batch) keeps the event loop free and lets
requests join a running batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from pathlib import Path
from traceback import format_tb
from typing import TYPE_CHECKING, Any

from PIL import Image

from boxmed_ray.actors import vllm_env
from boxmed_ray.data.prompts import Task
from serve.artifacts import Artifacts
from serve.grounded import Completion, EngineDeadError, Question

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.llm_engine import LLMEngine

log = logging.getLogger("boxmed.serve")

_CPU_BLOCK = 32
"""Tokens of a key-value block on the CPU, its smallest: the questions about an image share whole blocks only."""

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks for which vLLM makes room; an adapter takes the next one up."""


@dataclass(slots=True)
class _Batch:
    """Questions about one image that enter the engine together, and where their answers go."""

    image: Image.Image
    questions: Sequence[Question]
    answers: Future[list[Completion]] = field(default_factory=Future)
    done: dict[int, Completion] = field(default_factory=dict)


class ServingEngine:
    """Backbone and adapter in one vLLM engine. Construction blocks until the engine is loaded."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._inbox: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._adapter_ids, self._numbers = itertools.count(1), itertools.count(1)
        self._failure: str | None = None
        loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(loaded,), name="vllm", daemon=True)
        self._thread.start()
        loaded.result()

    @property
    def adapter_name(self) -> str:
        """Name under which the engine holds the adapter; it changes with every version."""
        return f"{self._artifacts.config.name}-{self._artifacts.adapter_version}"

    def check(self) -> None:
        """Raise EngineDeadError when the engine has failed."""
        if not self._thread.is_alive():
            raise EngineDeadError(f"the engine has stopped ({self._failure or 'it was closed'})")

    async def ask(self, image: Image.Image, questions: Sequence[Question]) -> list[Completion]:
        """Answer all ``questions`` about ``image`` in one batch, in their order.

        A question that does not fit the engine is answered with nothing, truncated. A caller that is
        cancelled takes its questions out of the engine.

        Raises:
            EngineDeadError: the engine has failed.
        """
        if not questions:
            return []
        batch = _Batch(image, questions)
        self._inbox.put(batch)
        self.check()  # after the put: a thread that ended before it will not look into its inbox again
        return await asyncio.wrap_future(batch.answers)

    def close(self) -> None:
        """Stop the thread after its present step; what is unanswered fails with EngineDeadError."""
        self._inbox.put(None)
        self._thread.join(timeout=30)

    # What follows runs on the engine's thread: torch keeps inference mode and its OpenMP team per thread.

    def _run(self, loaded: Future[None]) -> None:
        try:
            self._load()
        except BaseException as error:
            loaded.set_exception(error)
            return
        running: dict[str, tuple[_Batch, int]] = {}
        try:
            self._warm_up(running)
            loaded.set_result(None)
            while self._take(running):
                self._step(running)
        except BaseException as error:
            # Its kind alone: the message may quote a request. The health check hands it to Serve.
            self._failure = type(error).__name__
            log.critical("the engine failed with %s at:\n%s", self._failure, "".join(format_tb(error.__traceback__)))
            if not loaded.done():
                loaded.set_exception(error)
        finally:
            for batch, _ in running.values():
                _settle(batch, EngineDeadError("the engine has stopped"))
            while not self._inbox.empty():
                waiting = self._inbox.get()
                if waiting is not None:
                    _settle(waiting, EngineDeadError("the engine has stopped"))

    def _load(self) -> None:
        resources = self._artifacts.config.resources
        vllm_env.prepare(resources.threads, resources.gpus_per_rollout)
        import torch

        from boxmed_ray.model.policy import load_processor, vision_token_ids

        if not resources.gpus_per_rollout:
            torch.set_num_threads(resources.threads)
        self._processor = load_processor(self._artifacts.backbone)
        self._engine = _build(self._artifacts, vision_token_ids(self._processor.tokenizer))
        self._adapter = self._add_adapter(self._artifacts.adapter)

    def _add_adapter(self, folder: Path) -> LoRARequest:
        """A fresh id and name for each version: a reused id leaves the old one's prefix-cache entries valid."""
        from vllm.lora.request import LoRARequest

        request = LoRARequest(self.adapter_name, next(self._adapter_ids), str(folder))
        self._engine.add_lora(request)
        return request

    def _warm_up(self, running: dict[str, tuple[_Batch, int]]) -> None:
        """Answer once with adapter and once without: ready means that a report can be written, and at full speed."""
        side = self._artifacts.config.data.image_size
        questions = [Question(Task.REPORT, None, 8, adapter=True), Question(Task.GROUND, "warm-up", 8, adapter=False)]
        batch = _Batch(Image.new("RGB", (side, side)), questions)
        self._add(running, batch)
        if len(running) < len(questions):
            raise ValueError(
                f"model.max_length = {self._artifacts.config.model.max_length} holds no prompt with an image of "
                f"{side} x {side} pixels"
            )
        while running:
            self._step(running)

    def _take(self, running: dict[str, tuple[_Batch, int]]) -> bool:
        """Move what waits into the engine; block when there is nothing else to do. False: stop."""
        while True:
            try:
                batch = self._inbox.get(block=not running)
            except queue.Empty:
                break
            if batch is None:
                return False
            self._add(running, batch)
        gone = [key for key, (batch, _) in running.items() if batch.answers.cancelled()]
        if gone:
            self._engine.abort_request(gone)
            for key in gone:
                del running[key]
        return True

    def _add(self, running: dict[str, tuple[_Batch, int]], batch: _Batch) -> None:
        from boxmed_ray.model.inputs import prompt_text

        number = next(self._numbers)
        for index, question in enumerate(batch.questions):
            key = f"{number}-{index}"
            prompt: Any = {
                "prompt": prompt_text(self._processor, question.task, question.phrase),
                "multi_modal_data": {"image": batch.image},
            }
            lora = self._adapter if question.adapter else None
            try:
                self._engine.add_request(key, prompt, _sampling(question), lora_request=lora)
            except ValueError:  # vLLM refuses this one prompt (too long); the engine itself is sound
                self._answer(batch, index, Completion("", truncated=True))
            else:
                running[key] = (batch, index)

    def _step(self, running: dict[str, tuple[_Batch, int]]) -> None:
        for output in self._engine.step():
            if output.finished and output.request_id in running:
                batch, index = running.pop(output.request_id)
                best = output.outputs[0]
                self._answer(batch, index, Completion(best.text, best.finish_reason == "length"))

    @staticmethod
    def _answer(batch: _Batch, index: int, completion: Completion) -> None:
        batch.done[index] = completion
        if len(batch.done) == len(batch.questions):
            _settle(batch, [batch.done[i] for i in range(len(batch.questions))])


def _settle(batch: _Batch, outcome: list[Completion] | EngineDeadError) -> None:
    # The event loop may cancel at any moment, between a look and the setting too.
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, EngineDeadError):
            batch.answers.set_exception(outcome)
        else:
            batch.answers.set_result(outcome)


def _sampling(question: Question) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        temperature=0.0,
        max_tokens=question.max_new_tokens,
        # In an answer a stray special token must show, or a malformed one looks well formed.
        skip_special_tokens=question.adapter,
        spaces_between_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _build(artifacts: Artifacts, banned_ids: list[int]) -> LLMEngine:
    """The engine of training (boxmed_ray.actors.vllm_engine) but for what serving needs differently:
    an adapter instead of weight pushes, no log-probabilities, and vLLM's own image processing, which keeps
    what it made of an image between the questions about it.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from boxmed_ray.actors.banned_tokens import OPTION, BannedTokens

    config = artifacts.config
    rank: Any = next(rank for rank in _LORA_RANKS if rank >= artifacts.adapter_rank)
    device: dict[str, Any] = {}
    if not config.resources.gpus_per_rollout:
        device = {"distributed_executor_backend": "uni", "enforce_eager": True, "block_size": _CPU_BLOCK}
    args = EngineArgs(
        model=str(artifacts.backbone),
        dtype=config.model.dtype,
        seed=config.seed,
        max_model_len=config.model.max_length,
        max_num_seqs=config.resources.max_sequences,
        max_num_batched_tokens=max(4096, config.model.max_length),
        kv_cache_memory_bytes=int(config.resources.kv_cache_gb * 2**30),
        limit_mm_per_prompt={"image": 1, "video": 0},
        mm_device_do_normalize=False,  # pixels as the learner made them
        enable_lora=True,
        max_loras=1,
        max_lora_rank=rank,
        logits_processors=[BannedTokens],
        additional_config={OPTION: banned_ids},
        disable_log_stats=True,
        **device,
    )
    return LLMEngine.from_engine_args(args)
