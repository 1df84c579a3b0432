"""A rollout worker without vLLM: reads what is pushed to it as an engine would, and answers for its state."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from boxmed_ray.actors.weight_file import Bytes, TensorSpec, WeightFiles
from boxmed_ray.actors.weight_store import fetch

Sums = dict[str, float]


class Worker:
    """Holds the sum of every tensor of the version it has; ``misbehave`` names a phase and what it does there."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self._files, self._sums, self._version = WeightFiles(), dict[str, float](), 0
        self._received: tuple[int, Sums] | None = None
        self._out_of_service = False
        self._fault: tuple[str, str, float] = ("", "", 0.0)

    def ready(self) -> bool:
        """Answers once the process is up."""
        return True

    def misbehave(self, phase: str, how: str, seconds: float = 0.0) -> None:
        """From now on "raise", "die" or "sleep" for ``seconds`` when ``phase`` begins; forgets the phases so far."""
        self._fault, self.phases = (phase, how, seconds), []

    def state(self) -> tuple[int, Sums] | None:
        """Version and sums; None while it would refuse to generate."""
        return None if self._out_of_service else (self._version, self._sums)

    def seen(self) -> list[str]:
        """Phases so far."""
        return self.phases

    def weight_phase(self, phase: str, payload: Mapping[str, Any]) -> None:
        """As RolloutActor's."""
        self.phases.append(phase)
        when, how, seconds = self._fault
        if when == phase:
            self._do(how, seconds)
        match phase:
            case "start":
                self._out_of_service, self._received = True, None
            case "update":
                self._received = (payload["version"], self._read(payload))
            case "finish":
                if self._received is None or self._received[0] != payload["version"]:
                    raise RuntimeError("nothing was received")
                self._version, self._sums = self._received
                self._out_of_service = False

    def _do(self, how: str, seconds: float) -> None:
        if how == "raise":
            raise OSError("the host went away")
        if how == "die":
            os._exit(1)
        time.sleep(seconds)

    def _read(self, payload: Mapping[str, Any]) -> Sums:
        if "path" not in payload:
            return _sums(fetch(payload["layout"], payload["chunks"]))
        read = self._files.open(Path(payload["path"]))
        try:
            assert read.version == payload["version"]
            return _sums(read)
        finally:
            read.close()


def _sums(tensors: Iterable[tuple[TensorSpec, Bytes]]) -> Sums:
    return {spec.name: float(spec.view(data).double().sum()) for spec, data in tensors}
