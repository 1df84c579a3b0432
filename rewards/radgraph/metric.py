"""RadGraph F1 of pairs of reports.

What lives here: the scorer that other rewards build on. What does not: annotating (annotate.py) and F1 (f1.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.radgraph.annotate import RadGraph
from rewards.radgraph.f1 import LEVELS, Level, f1


class RadGraphMetric:
    """F1 between the annotations of a reference and a hypothesis, in [0, 1].

    Floor 0: either text has no entity, as an empty one, one of punctuation, or (with the published models) one in
    another alphabet.

    Args:
        model: annotates.
        level: which F1; ``radcliq`` is the feature that RadCliQ was fitted on.

    Raises:
        ValueError: ``level`` is unknown.
    """

    def __init__(self, model: RadGraph, level: Level = "radcliq") -> None:
        if level not in LEVELS:
            raise ValueError(f"RadGraph F1 has no level {level!r}; use one of: {', '.join(LEVELS)}")
        self._model, self._level = model, level

    @property
    def name(self) -> str:
        """``radgraph_f1`` for RadCliQ's feature; other models and levels are named: ``radgraph_xl_f1_simple``."""
        model = self._model.variant.replace("-", "_")
        return f"{model}_f1" if self._level == "radcliq" else f"{model}_f1_{self._level}"

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """The F1 of each pair, in order; it does not depend on the other pairs.

        Raises:
            ValueError: there are not as many references as hypotheses.
        """
        if len(references) != len(hypotheses):
            raise ValueError(f"{len(references)} references for {len(hypotheses)} hypotheses")
        found = self._model.annotate([*references, *hypotheses])
        pairs = zip(found[: len(references)], found[len(references) :], strict=True)
        return [f1(reference, hypothesis, self._level) for reference, hypothesis in pairs]
