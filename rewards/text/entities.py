"""How many of the findings of two reports agree: RadGraph's idea without its model, and not RadGraph.

What lives here: F1 and precision. What does not: reading findings (labels.py).

An entity is a finding of the phrase table with its status, so that a denied pneumothorax and a pneumothorax are two.
Wording, size, side, repetition and everything that the table does not know are not looked at. Alone both are rewards
that can be cheated, which is what the watch of a run is shown on (docs/rewards.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.categories import Status
from rewards.text.labels import findings
from rewards.text.pair import check_pairs

Entities = frozenset[tuple[str, Status]]


class EntityF1:
    """2 · shared / (stated by the reference + stated by the hypothesis); a PairMetric in [0, 1].

    0 where either states nothing, as RadGraph F1 of reports without entities.
    """

    name = "entity_f1"

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One score a pair."""
        pairs = _entities(references, hypotheses)
        return [2 * len(ref & hyp) / (len(ref) + len(hyp)) if ref and hyp else 0.0 for ref, hyp in pairs]


class EntityPrecision:
    """Shared / stated by the hypothesis, whatever it leaves out; a PairMetric in [0, 1]. 0 where it states nothing."""

    name = "entity_precision"

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One score a pair."""
        return [len(ref & hyp) / len(hyp) if hyp else 0.0 for ref, hyp in _entities(references, hypotheses)]


def _entities(references: Sequence[str], hypotheses: Sequence[str]) -> list[tuple[Entities, Entities]]:
    check_pairs(references, hypotheses)
    stated = {text: frozenset(findings(text).items()) for text in {*references, *hypotheses}}
    return [(stated[pair[0]], stated[pair[1]]) for pair in zip(references, hypotheses, strict=True)]
