"""What stops a run: numbers that are not finite, or an alarm of its watch.

What lives here: counting steps that were not taken, and the errors that end the run. What does not: alarms (drift.py),
skipping a step (model/engine.py), finding whose number it was (each loop). Light: the command line imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_NAMED = 12
"""Prompts that a message names; there can be hundreds."""


class DivergedError(RuntimeError):
    """Training does not go on: step after step has a loss or gradient that is not finite.

    The message names the prompts and the last checkpoint, and says what may help.
    """


class DriftError(RuntimeError):
    """The watch has rung, and the configuration says that this stops the run."""


def drift_message(alarms: Sequence[str], checkpoint: Path | None) -> str:
    """Why the run stops.

    Args:
        alarms: in words.
        checkpoint: folder of the last one, or None.
    """
    return (
        f"stage svr stopped, the reward may be cheated (svr.watch.on_alarm = stop): {'; '.join(alarms)}; the last "
        f"checkpoint is {checkpoint}. --resume goes on in spite of it; other rewards, or a composite, need a new run"
    )


@dataclass
class BadSteps:
    """Steps in a row that were not taken because loss or gradient was not finite.

    Attributes:
        limit: that many stop the run.
        setting: name of the limit in the config, for the message.
        count: so far, those before a resume included.
        prompts: whose loss it was, as far as this process saw; empty where only a gradient was not finite.
    """

    limit: int
    setting: str
    count: int = 0
    prompts: list[str] = field(default_factory=list)

    def add(self, *, taken: bool, prompts: Sequence[str] = ()) -> None:
        """Count a step: one that was taken begins the count anew."""
        self.count = 0 if taken else self.count + 1
        self.prompts = [] if taken else list(dict.fromkeys([*self.prompts, *prompts]))

    @property
    def too_many(self) -> bool:
        """Whether the run is to stop."""
        return self.count >= self.limit

    def message(self, stage: str, checkpoint: Path | None) -> str:
        """Why the run stops.

        Args:
            stage: that was running.
            checkpoint: folder of its last one, or None.
        """
        names = ", ".join(self.prompts[:_NAMED])
        if len(self.prompts) > _NAMED:
            names += f" and {len(self.prompts) - _NAMED} more"
        where = f"the last checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        return (
            f"stage {stage} stopped: loss or gradient was not finite in {self.count} steps in a row "
            f"({self.setting} = {self.limit}); prompts: {names or 'none by their loss, the gradient alone'}; {where}. "
            f"None of these steps has changed the weights. A lower learning rate or other data may help"
        )
