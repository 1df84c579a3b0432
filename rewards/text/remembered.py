"""Scores that a metric has given already.

What lives here: the memory of pairs. What does not: what a metric remembers of single texts (each its own).

A response that is scored by several rewards, or again for the watch, or that the model says time and again, is scored
once. Memory changes a score by rounding at most: that of a pair does not depend on its batch.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from rewards.text.pair import PairMetric, check_pairs

PAIRS = 50_000
"""Pairs last asked for that are remembered; 10 MB."""


class Remembered:
    """A PairMetric that asks another for the pairs it has not seen, each distinct one once.

    Args:
        metric: the other.
        pairs: how many are remembered.
    """

    def __init__(self, metric: PairMetric, pairs: int = PAIRS) -> None:
        self._metric, self._limit = metric, pairs
        self._scores: OrderedDict[bytes, float] = OrderedDict()

    @property
    def name(self) -> str:
        """Of the other."""
        return self._metric.name

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One score a pair."""
        check_pairs(references, hypotheses)
        keys = [_key(*pair) for pair in zip(references, hypotheses, strict=True)]
        new = {key: i for i, key in enumerate(keys) if key not in self._scores}
        fresh = self._metric.score_pairs([references[i] for i in new.values()], [hypotheses[i] for i in new.values()])
        self._scores.update(zip(new, fresh, strict=True))
        scores = [self._scores[key] for key in keys]
        for key in keys:
            self._scores.move_to_end(key)
        while len(self._scores) > self._limit:
            self._scores.popitem(last=False)
        return scores

    def forget(self) -> None:
        """Forget all pairs."""
        self._scores.clear()


def _key(reference: str, hypothesis: str) -> bytes:
    digest = hashlib.blake2b(len(reference).to_bytes(8), digest_size=16)
    digest.update(reference.encode(errors="surrogatepass"))
    digest.update(hypothesis.encode(errors="surrogatepass"))
    return digest.digest()
