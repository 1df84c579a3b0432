"""The worker's side of a weight push: vLLM's weight-transfer engine ``shm``, loading a file in shared memory.

What lives here: checking that a file holds the whole model, loading it, refreshing what vLLM derives
from weights. What does not: caches and the worker's service state (vllm_engine.py).

vLLM imports this module in every worker process through ``worker_extension_cls``; importing it registers
the engine. Three things go wrong in silence without what is done here: on the CPU backend plain
``load_weights`` meets packed, emptied weights (so layers are reloaded as vLLM's layerwise reload does); a
tied output head keeps its packed copy of the old weights; and a push that lacks parameters leaves the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from boxmed_ray.actors.weight_file import WeightFileError, read_header

if TYPE_CHECKING:
    from vllm.config import VllmConfig

BACKEND = "shm"
EXTENSION = "boxmed_ray.actors.weight_engine.WorkerExtension"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class ShmInitInfo(WeightTransferInitInfo):
    """The handshake; nothing has to be agreed beyond the backend itself."""

    writer: str


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):
    """A whole version: where it is, and which it must be."""

    path: str
    version: int


class ShmWeightEngine(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):
    """Loads whole versions; anything less is refused before the model is touched."""

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo
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
        self._reloading = False
        self._received = False

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        """Nothing to set up: every update names its file."""
        if self.vllm_config.lora_config is not None:
            raise RuntimeError("an engine with LoRA takes no weight pushes; start it without lora")

    def start_weight_update(self) -> None:
        """Open layerwise reloading, first closing what a failed update left open."""
        if self._reloading:
            self._finalize()
        initialize_layerwise_reload(self.model)
        self._reloading, self._received = True, False

    @torch.no_grad()
    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        """Load the file.

        Raises:
            WeightFileError: it is absent, another version, or not exactly this model's parameters.
        """
        path = Path(update_info.path)
        version, shapes = read_header(path)
        if version != update_info.version:
            raise WeightFileError(f"{path.name} holds version {version}; version {update_info.version} was announced")
        self._check(self._canonical(shapes))
        loaded = self.model.load_weights(_tensors(path))
        if loaded is not None and (missing := self._parameters - loaded):
            raise WeightFileError(f"vLLM did not load {_some(missing)} from version {version}")
        self._received = True

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
        """Nothing is held between updates."""

    def _finalize(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        self._reloading = False

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


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - no dict
            yield name, file.get_tensor(name)


def _some(names: Any, limit: int = 3) -> str:
    """A few names and how many more."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


WeightTransferEngineFactory.register_engine(BACKEND, ShmWeightEngine)
