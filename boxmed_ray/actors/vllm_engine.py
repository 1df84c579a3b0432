"""One vLLM engine in this process: samples groups with log-probabilities, and takes weight pushes.

What lives here: requests in, responses out, and the service state around a push. What does not: Ray
(rollout.py), encoding prompts (vllm_inputs.py), engine arguments (vllm_start.py), the transfer itself
(weight_engine.py).
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from boxmed_ray.actors import vllm_env
from boxmed_ray.actors.rollout_io import (
    EngineCrashedError,
    EngineOptions,
    EngineOutput,
    EnginePrompt,
    EngineStats,
    OutOfServiceError,
    adapter_key,
)
from boxmed_ray.actors.vllm_inputs import EngineInputs
from boxmed_ray.actors.vllm_start import start
from boxmed_ray.actors.weight_backend import WORKER_ENGINE
from boxmed_ray.actors.weight_fleet import Phase
from boxmed_ray.model.policy import load_processor, vision_token_ids

if TYPE_CHECKING:
    from boxmed_ray.actors.weight_adapter import PushedAdapter

_BEGUN = "a push was begun and not finished"


class RolloutEngine:
    """A vLLM engine for one model folder.

    Args:
        model_folder: transformers model with tokenizer and image processor.
        options: sizes, threads, seed.

    Raises:
        ValueError: (vLLM) the options do not fit the model or the memory.
    """

    def __init__(self, model_folder: Path | str, options: EngineOptions | None = None) -> None:
        self._options = options or EngineOptions()
        vllm_env.prepare(self._options.threads, self._options.gpus)
        self._folder = Path(model_folder)
        processor = load_processor(self._folder)
        self._tokenizer = processor.tokenizer
        self.banned_ids = vision_token_ids(self._tokenizer)
        self._llm = start(self._folder, self._options, self.banned_ids)
        self._inputs = EngineInputs(processor, self._llm.model_config, self._options.max_model_len)
        self._adapters: dict[str, Any] = {}
        self._pushed: PushedAdapter | None = None
        self._requests = 0
        self._version = 0
        self._paused = False
        self._incomplete: str | None = None
        self.stats = EngineStats()
        # What exists now stays: the collector need not look at it again at every collection.
        gc.collect()
        gc.freeze()

    @property
    def weight_version(self) -> int:
        """Learner updates behind the present weights; 0 is the folder's own."""
        return self._version

    def generate(
        self,
        prompts: Sequence[EnginePrompt],
        *,
        n: int = 1,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        seed: int | None = None,
        greedy: bool = False,
        lora_path: Path | str | None = None,
    ) -> list[list[EngineOutput]]:
        """Sample ``n`` responses per prompt; each image is encoded once.

        The same prompts, options and seed on the same weights give the same responses.

        Args:
            prompts: text with one placeholder each, and its image; or text alone.
            n: responses per prompt; 1 when greedy.
            temperature: above 0; of no effect when greedy.
            max_new_tokens: cap of a response.
            seed: of this call; by default sampling goes on from the engine's seed.
            greedy: the likeliest token at every step.
            lora_path: PEFT adapter to apply; by default the one that was pushed, if any was.

        Returns:
            Per prompt its responses, both in order.

        Raises:
            OutOfServiceError: a push is under way or did not complete.
            ValueError: a prompt does not fit, or placeholder and image do not agree.
            EngineCrashedError: vLLM failed while it ran.
        """
        self._check_service()
        if greedy and n != 1:
            raise ValueError(f"n = {n} with greedy decoding: all responses would be the same")
        if not greedy and temperature <= 0:
            raise ValueError(f"temperature = {temperature}: must be above 0; use greedy=True")
        params = self._params(n, 0.0 if greedy else temperature, max_new_tokens)
        adapter = self._pushed_adapter if lora_path is None else self._adapter(Path(lora_path))
        started = time.monotonic()
        inputs = [self._inputs.encode(index, prompt, max_new_tokens) for index, prompt in enumerate(prompts)]
        encoded = time.monotonic()
        with self._seeded(seed):
            finished = self._run(inputs, params, seed, adapter)
        groups = self._outputs(finished)
        self._count(groups)
        self.stats.encode_s += encoded - started
        self.stats.generate_s += time.monotonic() - encoded
        return groups

    def begin(self, prompt: EnginePrompt, *, n: int, temperature: float, max_new_tokens: int) -> str:
        """Let ``n`` responses to one prompt join what runs; ``step`` goes on with all.

        What is sampled depends on what runs beside it: seeds are for ``generate``.

        Args:
            prompt: text with one placeholder, and its image; or text alone.
            n: responses.
            temperature: above 0.
            max_new_tokens: cap of a response.

        Returns:
            The name under which ``step`` will give its responses.

        Raises:
            OutOfServiceError, ValueError: as ``generate``.
        """
        self._check_service()
        started = time.monotonic()
        encoded = self._inputs.encode(0, prompt, max_new_tokens)
        name = self._add(encoded, self._params(n, temperature, max_new_tokens), self._pushed_adapter)
        self.stats.encode_s += time.monotonic() - started
        return name

    def step(self) -> list[tuple[str, list[EngineOutput]]]:
        """Go on with everything that was begun by one token.

        Returns:
            Name and responses of what has ended.

        Raises:
            EngineCrashedError: vLLM failed.
        """
        started = time.monotonic()
        finished = self._step()
        groups = self._outputs(finished)
        self._count(groups)
        self.stats.generate_s += time.monotonic() - started
        return [(output.request_id, group) for output, group in zip(finished, groups, strict=True)]

    def weight_phase(self, phase: str, payload: Mapping[str, Any]) -> None:
        """Carry out one phase of a push (weight_fleet.py).

        A failure in any phase from start to finish leaves the engine out of service until a whole
        version has arrived.
        """
        match Phase(phase):
            case Phase.CONNECT:
                self._connect(dict(payload))
            case Phase.PAUSE:
                self._paused = True
            case Phase.START:
                self._incomplete = _BEGUN
                if self._pushed is None:
                    self._llm.collective_rpc("abandon_weight_update")
                    self._llm.start_weight_update()
            case Phase.UPDATE:
                with self._explained():
                    if self._pushed is None:
                        self._llm.update_weights({"update_info": dict(payload)})
                    else:
                        self._pushed.receive(payload)
            case Phase.FINISH:
                with self._explained():
                    self._finish(int(payload["version"]))
            case Phase.RESUME:
                self._paused = False

    def shutdown(self) -> None:
        """Give back the engine's memory. The engine is of no use afterwards."""
        self._incomplete = "it was shut down"
        if self._pushed is not None:
            self._pushed.close()
        self._llm.llm_engine.engine_core.shutdown()

    # Generation

    @property
    def _pushed_adapter(self) -> Any:
        return None if self._pushed is None else self._pushed.request

    def _check_service(self) -> None:
        if self._incomplete is not None:
            raise OutOfServiceError(
                f"engine out of service: {self._incomplete}; push a whole version, or start the engine afresh"
            )
        if self._paused:
            raise OutOfServiceError("engine paused: the learner is pushing weights and has not resumed it")

    def _params(self, n: int, temperature: float, max_new_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=n,
            temperature=temperature,
            max_tokens=max_new_tokens,
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=False,  # once at the end, not token by token
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    @contextlib.contextmanager
    def _seeded(self, seed: int | None) -> Iterator[None]:
        # vLLM on the CPU draws from torch's own generator, in this process. Its per-request seeds cost a generator a
        # sequence, and fail where a prompt is prefilled in parts ("CPU Generator does not use offset").
        if seed is None or self._options.tensor_parallel > 1:
            yield
            return
        # What earlier calls left in the caches decides which requests share the first step, and so who draws first.
        self._drop_caches()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield

    def _run(self, inputs: list[Any], params: Any, seed: int | None, adapter: Any) -> list[Any]:
        """Run all requests to their end; vLLM's outputs in the order of ``inputs``."""
        engine = self._llm.llm_engine
        finished: dict[str, Any] = {}
        order = []
        try:
            for index, prompt in enumerate(inputs):
                own = params
                if seed is not None and self._options.tensor_parallel > 1:
                    own = params.clone()
                    own.seed = seed + index * params.n
                order.append(self._add(prompt, own, adapter))
            while engine.has_unfinished_requests():
                finished |= {output.request_id: output for output in self._step()}
        except BaseException:
            # What is left over would come out of the next call.
            engine.abort_request(order)
            raise
        return [finished[name] for name in order]

    def _add(self, prompt: Any, params: Any, adapter: Any = None) -> str:
        self._requests += 1
        name = str(self._requests)
        self._llm.llm_engine.add_request(name, prompt, params, lora_request=adapter)
        return name

    def _step(self) -> list[Any]:
        try:
            outputs = self._llm.llm_engine.step()
        except Exception as error:
            raise EngineCrashedError(f"vLLM failed while it generated: {error!r}") from error
        return [output for output in outputs if output.finished]

    def _count(self, groups: list[list[EngineOutput]]) -> None:
        self.stats.prompts += len(groups)
        self.stats.samples += sum(len(group) for group in groups)
        self.stats.tokens += sum(len(output.token_ids) for group in groups for output in group)

    def _outputs(self, finished: list[Any]) -> list[list[EngineOutput]]:
        completions = [completion for output in finished for completion in output.outputs]
        ended = [completion.finish_reason == "stop" for completion in completions]
        ids = [list(completion.token_ids) for completion in completions]
        texts = iter(
            self._tokenizer.batch_decode(
                [tokens[:-1] if stop else tokens for tokens, stop in zip(ids, ended, strict=True)],
                skip_special_tokens=False,  # a stray special token must show, or a malformed answer looks well formed
                clean_up_tokenization_spaces=False,
            )
        )
        return [
            [
                EngineOutput(
                    token_ids=list(completion.token_ids),
                    logprobs=list(completion.logprobs.logprobs),
                    finish_reason="stop" if completion.finish_reason == "stop" else "length",
                    text=next(texts),
                    prompt_tokens=len(output.prompt_token_ids),
                    weight_version=self._version,
                )
                for completion in output.outputs
            ]
            for output in finished
        ]

    def _adapter(self, path: Path) -> Any:
        from vllm.lora.request import LoRARequest

        if not self._options.lora_rank:
            raise ValueError(f"adapter {path}: this engine was started without LoRA (lora_rank = 0)")
        key = adapter_key(path)
        if key not in self._adapters:
            # A fresh id for every version: under a used id vLLM keeps the old adapter's prefix-cache entries.
            number = len(self._adapters) + 1
            self._adapters[key] = LoRARequest(f"adapter-{number}", number, str(path))
        return self._adapters[key]

    # Weight pushes

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._incomplete == _BEGUN:  # what went wrong first, not what followed from it
                self._incomplete = f"a push failed: {error}"
            raise

    def _connect(self, payload: dict[str, Any]) -> None:
        engine = payload.pop("backend")
        if engine != WORKER_ENGINE["lora"]:
            self._pushed = None
            self._llm.collective_rpc("use_weight_engine", args=(engine,))
            self._llm.init_weight_transfer_engine({"init_info": payload})
            return
        if not self._options.lora_rank:
            raise ValueError("an adapter is to be pushed, and this engine was started without LoRA (lora_rank = 0)")
        from boxmed_ray.actors.weight_adapter import PushedAdapter

        self._pushed = self._pushed or PushedAdapter()

    def _finish(self, version: int) -> None:
        if self._pushed is None:
            self._llm.finish_weight_update(str(version))
            self._drop_caches()
        else:
            self._pushed.swap_in(self._llm, version)
        self._version, self._incomplete = version, None
        self.stats.pushes += 1

    def _drop_caches(self) -> None:
        """Keys and values, and image features: after a push all of them come from the old weights."""
        engine = self._llm.llm_engine
        if not engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not drop its prefix cache: requests are still running")
        engine.reset_mm_cache()
        engine.reset_encoder_cache()
