"""Sample and Score: what every reward takes and gives.

What lives here: the two types. What does not: reading a response (the caller parses it once and puts the
result into the Sample) and the rewards themselves (one file each).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

BoxT = tuple[float, float, float, float]
"""x1, y1, x2, y2 with the origin at the top left, in any unit as long as both sides use the same."""

MALFORMED: Final = "malformed"
"""The answer is neither a list of boxes nor an explicit none."""
EMPTY: Final = "empty"
"""The response holds no text at all."""
TRUNCATED: Final = "truncated"
"""The response ran into the cap of new tokens."""
SCORER_ERROR: Final = "scorer_error"
"""A scorer failed on this sample; its component is the floor and says nothing about the response."""

BOXES: Final = "boxes"
"""What a reward reads of a sample: the boxes of response and target."""
REPORT: Final = "a report"
"""What a reward reads of a sample: the report of response and target."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One response beside what it should have said.

    Attributes:
        text: the decoded response without the end-of-turn token.
        boxes: what the answer says; None when it cannot be read, empty for an explicit none.
        well_formed: the whole response matches the response form.
        target_boxes: the true boxes; empty when there is nothing to find.
        target_text: the reference report, where there is one.
        report: what the response reports, where the caller has read that; None: all that follows the thinking.
        truncated: the response ran into the cap of new tokens.
    """

    text: str
    boxes: tuple[BoxT, ...] | None
    well_formed: bool
    target_boxes: tuple[BoxT, ...]
    target_text: str | None = None
    truncated: bool = False
    report: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """The reward of one sample: the value, its components by name, and flags.

    A component is the plain value of one reward before its weight, so that curves of different runs
    compare. Flags are among ``malformed``, ``empty``, ``truncated``, ``scorer_error``.
    """

    value: float
    components: dict[str, float] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()


def flags_of(sample: Sample) -> frozenset[str]:
    """The flags that follow from the sample alone, whatever the reward."""
    found = {
        MALFORMED: sample.boxes is None,
        EMPTY: not sample.text.strip(),
        TRUNCATED: sample.truncated,
    }
    return frozenset(name for name, holds in found.items() if holds)
