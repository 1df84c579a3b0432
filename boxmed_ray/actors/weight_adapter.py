"""An adapter pushed to a worker: written as PEFT has it, for vLLM to load.

What lives here: the folder of the newest adapter, and its request. What does not: where it comes from (weights.py),
when it is applied (vllm_engine.py).

Every version is an adapter of its own to vLLM, with a number and a name that none had before: under a used one, vLLM
goes on with keys and values of the old adapter.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from vllm.lora.request import LoRARequest

from boxmed_ray.actors.weight_digest import checked
from boxmed_ray.actors.weight_file import WeightFileError
from boxmed_ray.actors.weight_store import fetch

_FIRST = 1 << 20
"""Numbers below are of adapters that a caller names by their folder."""
_SHARED_MEMORY = Path("/dev/shm")


class PushedAdapter:
    """The newest adapter that was received whole, and the one that is applied."""

    def __init__(self) -> None:
        self._received: tuple[int, Path] | None = None
        self._pushes = 0
        self.request: LoRARequest | None = None

    def receive(self, update: Mapping[str, Any]) -> None:
        """Fetch a version and write it to a folder.

        Raises:
            WeightFileError: it is not what was sent.
        """
        self._drop_received()
        version = int(update["version"])
        tensors = checked(fetch(update["layout"], update["chunks"]), update["digest"], f"adapter version {version}")
        folder = Path(
            tempfile.mkdtemp(prefix="boxmed-adapter-", dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None)
        )
        try:
            save_file({spec.name: spec.view(data) for spec, data in tensors}, folder / "adapter_model.safetensors")
            (folder / "adapter_config.json").write_text(json.dumps(dict(update["config"])))
        except BaseException:
            shutil.rmtree(folder)
            raise
        self._received = (version, folder)

    def swap_in(self, llm: Any, version: int) -> None:
        """Have vLLM load what was received, and apply it from now on.

        Raises:
            WeightFileError: ``version`` was not received.
            ValueError: (vLLM) it does not fit the model.
        """
        if self._received is None or self._received[0] != version:
            raise WeightFileError(f"finish of version {version} was called before that adapter was received")
        self._pushes += 1
        number = _FIRST + self._pushes
        request = LoRARequest(f"pushed-{number}", number, str(self._received[1]))
        llm.llm_engine.add_lora(request)
        old, self.request, self._received = self.request, request, None
        if old is not None:
            llm.llm_engine.remove_lora(old.lora_int_id)
            shutil.rmtree(old.lora_path)

    def close(self) -> None:
        """Remove the folders."""
        self._drop_received()
        if self.request is not None:
            shutil.rmtree(self.request.lora_path, ignore_errors=True)

    def _drop_received(self) -> None:
        if self._received is not None:
            shutil.rmtree(self._received[1])
        self._received = None
