"""F1 of the findings that two reports state: RadGraph's idea without its model, and not RadGraph.

What lives here: the score. What does not: reading findings (labels.py).

An entity is a finding of the phrase table with its status, so that a denied pneumothorax and a pneumothorax are two.
Wording, size, side and everything that the table does not know are not looked at: alone it is a reward that can be
cheated, and what the watch of a run is tried on (docs/rewards.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.categories import Status
from rewards.text.labels import findings
from rewards.text.pair import check_pairs


class EntityF1:
    """2 · shared / (stated by the reference + stated by the hypothesis); a PairMetric in [0, 1].

    0 where either states nothing, as RadGraph F1 of reports without entities.
    """

    name = "entity_f1"

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One score a pair."""
        check_pairs(references, hypotheses)
        stated = {text: _entities(text) for text in {*references, *hypotheses}}
        return [_f1(stated[pair[0]], stated[pair[1]]) for pair in zip(references, hypotheses, strict=True)]


def _entities(report: str) -> frozenset[tuple[str, Status]]:
    return frozenset(findings(report).items())


def _f1(first: frozenset[tuple[str, Status]], second: frozenset[tuple[str, Status]]) -> float:
    return 2 * len(first & second) / (len(first) + len(second)) if first and second else 0.0
