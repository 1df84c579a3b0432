"""One in-process vLLM engine on a thread of its own, asked from an event loop.

What lives here: the thread that steps the engine, adapters and their ids. What does not: building it (engine_start.py),
what is asked (questions.py, grounded.py, chat.py), and HTTP (api.py).

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
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from boxmed_ray.actors import vllm_env
from boxmed_ray.data.prompts import Task
from serve.artifacts import Adapter, Artifacts
from serve.engine_start import Counters, build, count_encoded_images
from serve.questions import Completion, EngineDeadError, Listener, Question
from serve.security import where

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

log = logging.getLogger("boxmed.serve")


@dataclass(slots=True)
class _Batch:
    """Questions about one image that enter the engine together, and where their answers go."""

    image: Image.Image | None
    questions: Sequence[Question]
    listener: Listener | None = None
    answers: Future[list[Completion]] = field(default_factory=Future)
    done: dict[int, Completion] = field(default_factory=dict)
    told: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Exchange:
    """Adapters that take the place of those that are served."""

    adapters: Sequence[Adapter]
    done: Future[None] = field(default_factory=Future)

    def carry_out(self, load: Callable[[Sequence[Adapter]], None]) -> None:
        try:
            load(self.adapters)
        except Exception as error:  # a bad file is its sender's fault: the engine goes on with what it has
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


class ServingEngine:
    """Backbone and adapter in one vLLM engine. Construction blocks until the engine is loaded."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._inbox: queue.SimpleQueue[_Batch | _Exchange | None] = queue.SimpleQueue()
        self._adapter_ids, self._numbers = itertools.count(1), itertools.count(1)
        self._adapters: dict[str, LoRARequest] = {}
        self.counters = Counters()
        self._failure: str | None = None
        loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(loaded,), name="vllm", daemon=True)
        self._thread.start()
        loaded.result()

    def check(self) -> None:
        """Raise EngineDeadError when the engine has failed."""
        if not self._thread.is_alive():
            raise EngineDeadError(f"the engine has stopped ({self._failure or 'it was closed'})")

    async def ask(
        self, image: Image.Image | None, questions: Sequence[Question], listener: Listener | None = None
    ) -> list[Completion]:
        """Answer all ``questions`` about ``image`` in one batch, in their order.

        A question that does not fit the engine is answered with nothing, truncated. A caller that is
        cancelled takes its questions out of the engine.

        Args:
            image: the radiograph as the model sees it, or None for text alone.
            questions: each with the adapter that answers it.
            listener: is told each piece of text as it is written, from the engine's thread.

        Raises:
            EngineDeadError: the engine has failed.
            KeyError: an adapter of that name is not there.
        """
        if not questions:
            return []
        batch = _Batch(image, questions, listener)
        self._inbox.put(batch)
        self.check()  # after the put: a thread that ended before it will not look into its inbox again
        return await asyncio.wrap_future(batch.answers)

    def exchange(self, adapters: Sequence[Adapter]) -> None:
        """Serve these adapters from now on; questions under way keep the version that they began with.

        Raises:
            EngineDeadError: the engine has failed.
            Exception: what vLLM raised at an adapter that it cannot load; those of before stay.
        """
        change = _Exchange(adapters)
        self._inbox.put(change)
        self.check()
        change.done.result()

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
            log.critical("engine-failed with=%s at=%s", self._failure, where(error))
            if not loaded.done():
                loaded.set_exception(error)
        finally:
            for batch, _ in running.values():
                _settle(batch, EngineDeadError("the engine has stopped"))
            while not self._inbox.empty():
                waiting = self._inbox.get()
                if isinstance(waiting, _Batch):
                    _settle(waiting, EngineDeadError("the engine has stopped"))
                elif waiting is not None:
                    waiting.done.set_exception(EngineDeadError("the engine has stopped"))

    def _load(self) -> None:
        resources = self._artifacts.config.resources
        vllm_env.prepare(resources.threads, resources.gpus_per_rollout)
        import torch

        from boxmed_ray.model.policy import load_processor, vision_token_ids

        if not resources.gpus_per_rollout:
            torch.set_num_threads(resources.threads)
        self._processor = load_processor(self._artifacts.backbone)
        self._engine = build(self._artifacts, vision_token_ids(self._processor.tokenizer))
        count_encoded_images(self._engine, self.counters)
        self._load_adapters(self._artifacts.adapters)

    def _load_adapters(self, adapters: Sequence[Adapter]) -> None:
        """A fresh id and name for each version: a reused id leaves the old one's prefix-cache entries valid."""
        from vllm.lora.request import LoRARequest

        held = {request.lora_name: request for request in self._adapters.values()}
        loaded = {}
        for adapter in adapters:
            request = held.get(adapter.versioned)
            if request is None:
                request = LoRARequest(adapter.versioned, next(self._adapter_ids), str(adapter.folder))
                self._engine.add_lora(request)
            loaded[adapter.name] = request
        # One that is gone is not taken out of vLLM: questions under way use it, and vLLM drops the oldest by itself.
        self._adapters = loaded

    def _warm_up(self, running: dict[str, tuple[_Batch, int]]) -> None:
        """Answer once with adapter and once without: ready means that a report can be written, and at full speed."""
        side = self._artifacts.config.data.image_size
        questions = [Question(Task.REPORT, None, 8, name) for name in self._adapters]
        questions.append(Question(Task.GROUND, "warm-up", 8))
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
            if isinstance(batch, _Exchange):
                batch.carry_out(self._load_adapters)
            else:
                try:
                    self._add(running, batch)
                except BaseException:  # the engine ends, and whoever asked this must not wait for it
                    _settle(batch, EngineDeadError("the engine has stopped"))
                    raise
        gone = [key for key, (batch, _) in running.items() if batch.answers.cancelled()]
        if gone:
            self._engine.abort_request(gone)
            for key in gone:
                del running[key]
        return True

    def _add(self, running: dict[str, tuple[_Batch, int]], batch: _Batch) -> None:

        from vllm.exceptions import VLLMClientError

        number = next(self._numbers)
        for question in batch.questions:
            if question.adapter is not None and question.adapter not in self._adapters:
                _settle(batch, KeyError(question.adapter))  # it was exchanged while the question waited
                return
        for index, question in enumerate(batch.questions):
            key = f"{number}-{index}"
            prompt: Any = {"prompt": self._text(question)}
            if batch.image is not None:
                prompt["multi_modal_data"] = {"image": batch.image}
            lora = None if question.adapter is None else self._adapters[question.adapter]
            sampling = _sampling(question, streamed=batch.listener is not None)
            try:
                self._engine.add_request(key, prompt, sampling, lora_request=lora)
            except (ValueError, VLLMClientError):  # vLLM refuses this prompt (too long); the engine itself is sound
                self._answer(batch, index, Completion("", truncated=True))
            else:
                running[key] = (batch, index)

    def _text(self, question: Question) -> str:
        from boxmed_ray.model.inputs import prompt_text

        if question.task is not None:
            return prompt_text(self._processor, question.task, question.phrase)
        turns = list(question.turns)
        return str(self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))

    def _step(self, running: dict[str, tuple[_Batch, int]]) -> None:
        for output in self._engine.step():
            if output.request_id not in running:
                continue
            batch, index = running[output.request_id]
            best = output.outputs[0]
            if batch.listener is not None:
                batch.told[index] = batch.told.get(index, "") + best.text
                batch.tokens[index] = batch.tokens.get(index, 0) + len(best.token_ids)
                if best.text and not batch.answers.cancelled():
                    batch.listener(index, best.text)
            if output.finished:
                del running[output.request_id]
                completion = Completion(
                    batch.told.get(index, best.text),
                    best.finish_reason == "length",
                    len(output.prompt_token_ids or ()),
                    output.num_cached_tokens or 0,
                    batch.tokens.get(index, len(best.token_ids)),
                )
                self.counters.add(completion)
                self._answer(batch, index, completion)

    @staticmethod
    def _answer(batch: _Batch, index: int, completion: Completion) -> None:
        batch.done[index] = completion
        if len(batch.done) == len(batch.questions):
            _settle(batch, [batch.done[i] for i in range(len(batch.questions))])


def _settle(batch: _Batch, outcome: list[Completion] | Exception) -> None:
    # The event loop may cancel at any moment, between a look and the setting too.
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            batch.answers.set_exception(outcome)
        else:
            batch.answers.set_result(outcome)


def _sampling(question: Question, streamed: bool) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    chosen = question.sampling
    return SamplingParams(
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        seed=chosen.seed,
        stop=list(chosen.stop),
        max_tokens=question.max_new_tokens,
        # In an answer to a grounding prompt a stray special token must show, or a malformed one looks well formed.
        skip_special_tokens=question.task is not Task.GROUND,
        spaces_between_special_tokens=False,
        output_kind=RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY,
    )
