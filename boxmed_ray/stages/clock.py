"""Seconds by phase.

What lives here: the stopwatch of an update. What does not: what the phases are (reinforce.py, sampler.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Seconds of one update by phase; what no phase claims is ``other``."""

    started: float = field(default_factory=time.monotonic)
    phases: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as ``name``."""
        began = time.monotonic()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began

    def seconds(self) -> dict[str, float]:
        """``<phase>_s`` of every phase, ``other_s`` and ``step_s``."""
        step = time.monotonic() - self.started
        seconds = {f"{name}_s": value for name, value in self.phases.items()}
        return seconds | {"other_s": step - sum(self.phases.values()), "step_s": step}
