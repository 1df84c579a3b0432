"""An adapter pushed to a worker: written as PEFT has it, for vLLM to load.

What lives here: the folder of the newest adapter, and its request. What does not: where it comes from (weights.py),
when it is applied (vllm_engine.py).

Every version is an adapter of its own to vLLM, with a number and a name that none had before: under a used one, vLLM
goes on with keys and values of the old adapter.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from vllm.lora.request import LoRARequest

from boxmed_ray.actors.weight_digest import checked
from boxmed_ray.actors.weight_file import PREFIX, WeightFileError, remove_stale
from boxmed_ray.actors.weight_store import fetch

_NUMBERS = itertools.count(1 << 20)
"""Of this process, whatever is connected anew; numbers below are of adapters that a caller names by their folder."""
_DIRECTORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


class AdapterFolder:
    """A folder under a lock, which tells what a killed worker has left from what is in use."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}adapter-", dir=_DIRECTORY))
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def remove(self) -> None:
        """With what is in it."""
        shutil.rmtree(self.path)
        os.close(self._descriptor)


class PushedAdapter:
    """The newest adapter that was received whole, and the one that is applied."""

    def __init__(self) -> None:
        remove_stale(_DIRECTORY)
        self._received: tuple[int, AdapterFolder] | None = None
        self._applied: AdapterFolder | None = None
        self.request: LoRARequest | None = None

    def receive(self, update: Mapping[str, Any]) -> None:
        """Fetch a version and write it to a folder.

        Raises:
            WeightFileError: it is not what was sent.
        """
        self._drop_received()
        version, folder = int(update["version"]), AdapterFolder()
        self._received = (-1, folder)  # not whole yet
        tensors = checked(fetch(update["layout"], update["chunks"]), update["digest"], f"adapter version {version}")
        save_file({spec.name: spec.view(data) for spec, data in tensors}, folder.path / "adapter_model.safetensors")
        (folder.path / "adapter_config.json").write_text(json.dumps(dict(update["config"])))
        self._received = (version, folder)

    def swap_in(self, llm: Any, version: int) -> None:
        """Have vLLM load what was received, and apply it from now on.

        Raises:
            WeightFileError: ``version`` was not received.
            ValueError: (vLLM) it does not fit the model.
        """
        if self._received is None or self._received[0] != version:
            raise WeightFileError(f"finish of version {version} was called before that adapter was received")
        folder = self._received[1]
        number = next(_NUMBERS)
        request = LoRARequest(f"pushed-{number}", number, str(folder.path))
        llm.llm_engine.add_lora(request)
        if self.request is not None:
            llm.llm_engine.remove_lora(self.request.lora_int_id)
        self._drop_applied()
        self.request, self._applied, self._received = request, folder, None

    def close(self) -> None:
        """Remove the folders."""
        self._drop_received()
        self._drop_applied()

    def _drop_received(self) -> None:
        if self._received is not None:
            self._received[1].remove()
        self._received = None

    def _drop_applied(self) -> None:
        if self._applied is not None:
            self._applied.remove()
        self._applied = None
