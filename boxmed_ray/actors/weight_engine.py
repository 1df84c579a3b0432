"""The worker's side of a weight push: a weight-transfer engine of vLLM that reads shared memory or Ray's object store.

What lives here: checking that a version holds the whole model, loading it, refreshing what vLLM derives
from weights. What does not: how bytes become tensors (weight_file.py, weight_store.py), adapters (weight_adapter.py),
caches and the worker's service state (vllm_engine.py).

vLLM imports this module in every worker process through ``worker_extension_cls``; importing it registers
the engine. Three things go wrong in silence without what is done here: on the CPU backend plain
``load_weights`` meets packed, emptied weights (so layers are reloaded as vLLM's layerwise reload does); a
tied output head keeps its packed copy of the old weights; and a push that lacks parameters leaves the old ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from boxmed_ray.actors.weight_backend import WORKER_ENGINE
from boxmed_ray.actors.weight_digest import checked
from boxmed_ray.actors.weight_file import Bytes, OpenWeights, TensorSpec, WeightFileError, WeightFiles
from boxmed_ray.actors.weight_store import Layout, fetch, layout_specs

if TYPE_CHECKING:
    from vllm.config import VllmConfig

BACKEND = WORKER_ENGINE["shm"]
EXTENSION = "boxmed_ray.actors.weight_engine.WorkerExtension"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class ReadInitInfo(WeightTransferInitInfo):
    """The handshake; nothing has to be agreed beyond the engine itself."""


@dataclass
class ReadUpdateInfo(WeightTransferUpdateInfo):
    """A whole version: which it must be, and where it is.

    Attributes:
        version: learner updates behind it.
        digest: what is loaded must have it; None compares nothing.
        path: of a file in shared memory, or
        layout, chunks: of objects in Ray's store.
    """

    version: int
    digest: str | None = None
    path: str | None = None
    layout: Layout = field(default_factory=list)
    chunks: list[Any] = field(default_factory=list)


class ReadingWeightEngine(WeightTransferEngine[ReadInitInfo, ReadUpdateInfo]):
    """Loads whole versions; anything less is refused before the model is touched."""

    init_info_cls = ReadInitInfo
    update_info_cls = ReadUpdateInfo
    supports_draft_weight_update = False

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        mapper = getattr(model, "hf_to_vllm_mapper", None)
        self._mapper = None if mapper is None else mapper.get_rename_mapper()
        self._tied = bool(getattr(self.model_config.hf_text_config, "tie_word_embeddings", False))
        self._expected = self._canonical(checkpoint_shapes(Path(self.model_config.model)))
        self._parameters = {name for name, _ in model.named_parameters()}
        self._files = WeightFiles()
        self._open: OpenWeights | None = None
        self._reloading = False
        self._received = False

    def init_transfer_engine(self, init_info: ReadInitInfo) -> None:
        """Nothing to set up: every update says where it is."""
        if self.vllm_config.lora_config is not None:
            raise RuntimeError("an engine with LoRA takes no whole weights; start it without lora")

    def start_weight_update(self) -> None:
        """Open layerwise reloading, first closing what a failed update left open."""
        if self._reloading:
            self._finalize()
        initialize_layerwise_reload(self.model)
        self._reloading, self._received = True, False

    @torch.no_grad()
    def receive_weights(self, update_info: ReadUpdateInfo) -> None:
        """Load the version.

        Raises:
            WeightFileError: it is absent, another version, not exactly this model's parameters, or damaged.
        """
        version = update_info.version
        specs, tensors = self._read(update_info)
        self._check(self._canonical({spec.name: spec.shape for spec in specs}))
        whole = checked(tensors, update_info.digest, f"version {version}")
        loaded = self.model.load_weights((spec.name, spec.view(data)) for spec, data in whole)
        if loaded is not None and (missing := self._parameters - loaded):
            raise WeightFileError(f"vLLM did not load {_some(missing)} from version {version}")
        self._received = True

    def _read(self, update_info: ReadUpdateInfo) -> tuple[list[TensorSpec], Iterable[tuple[TensorSpec, Bytes]]]:
        """What there is, and the tensors; those of a file are under its lock until the update ends."""
        if update_info.path is None:
            return layout_specs(update_info.layout), fetch(update_info.layout, update_info.chunks)
        self._close()
        held = self._open = self._files.open(Path(update_info.path))
        if held.version != update_info.version:
            raise WeightFileError(
                f"{held.path.name} holds version {held.version}; version {update_info.version} was announced"
            )
        return held.specs, held

    @torch.no_grad()
    def finish_weight_update(self) -> None:
        """Put the loaded weights into use, with everything derived from them.

        Raises:
            WeightFileError: no version was received since the start.
        """
        if not self._received:
            raise WeightFileError("finish was called before a version was received")
        self._finalize()
        # A tied head shares the embedding's parameter, so the reload has nothing to load into it and its packed
        # copy stays that of the old weights.
        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Give up what an update that failed has left open."""
        self._close()

    def _finalize(self) -> None:
        # Layers that are not complete before keep what they are given until here.
        finalize_layerwise_reload(self.model, self.model_config)
        self._reloading = False
        self._close()

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None

    def _canonical(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Names as vLLM has them: checkpoints and modules spell the same parameter differently."""
        canonical = {}
        for name, shape in shapes.items():
            mapped = name if self._mapper is None else self._mapper.map_name(name)
            if mapped is not None and not (self._tied and mapped.endswith("lm_head.weight")):
                canonical[mapped] = shape
        return canonical

    def _check(self, shapes: Shapes) -> None:
        problems = []
        if missing := self._expected.keys() - shapes.keys():
            problems.append(f"lacks {_some(missing)}")
        if unknown := shapes.keys() - self._expected.keys():
            problems.append(f"has {_some(unknown)}, which the model has not")
        for name in sorted(shapes.keys() & self._expected.keys()):
            if tuple(shapes[name]) != self._expected[name]:
                problems.append(f"has {name} as {list(shapes[name])}, the model as {list(self._expected[name])}")
                break
        if problems:
            raise WeightFileError("the pushed version " + "; ".join(problems))


class WorkerExtension:
    """Mixed into vLLM's worker. Naming it in the engine's arguments is what imports this module."""

    _weight_update_active: bool
    weight_transfer_engine: Any
    vllm_config: Any
    device: torch.device
    model_runner: Any

    def use_weight_engine(self, backend: str) -> None:
        """Receive through another engine of vLLM's factory from now on; the one in use stays where it is that."""
        present = self.weight_transfer_engine
        if present.config.backend == backend == BACKEND:
            return
        # One of NCCL is made anew even so: its processes have changed, or it would not be connected again.
        present.shutdown()
        self.weight_transfer_engine = WeightTransferEngineFactory.create_engine(
            WeightTransferConfig(backend=backend), self.vllm_config, self.device, self.model_runner.get_model()
        )

    def abandon_weight_update(self) -> None:
        """Forget an update that failed, so that the next may start."""
        self._weight_update_active = False


def checkpoint_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every tensor of the safetensors files in a model folder.

    Raises:
        WeightFileError: there are none.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            shapes.update((name, tuple(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118 - no dict
    if not shapes:
        raise WeightFileError(f"{folder} holds no safetensors files; weight pushes are checked against them")
    return shapes


def _some(names: Any, limit: int = 3) -> str:
    """A few names and how many more."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


WeightTransferEngineFactory.register_engine(BACKEND, ReadingWeightEngine)
