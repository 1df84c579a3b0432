"""BLEU of one report against one reference, as RadCliQ's BLEU-2 feature defines it.

What lives here: the two tokenisations, the sentence score and its metric. What does not: corpus BLEU, which an
evaluation takes from sacrebleu (boxmed_ray/evaluate/text.py).

Two tokenisations, because published numbers use both:

- ``radcliq_tokens``: lower-cased, every dot split off, cut at white space (rajpurkarlab/CXR-Report-Metric). Other
  punctuation stays on its word.
- ``word_tokens``: lower-cased; a number with its decimals or a word with inner hyphens and apostrophes is one
  token, every other sign is a token of its own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from rewards.text.pair import MAX_CHARACTERS, check_pairs

EPSILON = 0.1
"""Stands in for a count of 0 above the unigrams (Chen and Cherry 2014, method 1)."""

_WORD = re.compile(r"\d+(?:\.\d+)+|\w+(?:[-'’]\w+)*|[^\w\s]")


def radcliq_tokens(text: str) -> list[str]:
    """Tokens for RadCliQ's BLEU-2."""
    return text[:MAX_CHARACTERS].lower().replace(".", " .").split()


def word_tokens(text: str) -> list[str]:
    """Tokens for corpus BLEU of an evaluation."""
    return _WORD.findall(text[:MAX_CHARACTERS].lower())


def sentence_bleu(hypothesis: Sequence[str], reference: Sequence[str], order: int = 2) -> float:
    """BLEU up to ``order`` of one token list against one reference, in [0, 1].

    Uniform weights, brevity penalty, smoothing with ``EPSILON`` above the unigrams; 0 without a unigram match.
    Equals NLTK's ``sentence_bleu`` with ``SmoothingFunction(0.1).method1`` (tests/rewards/text/test_bleu.py).
    """
    logs = 0.0
    for n in range(1, order + 1):
        counts = Counter(zip(*(hypothesis[i:] for i in range(n)), strict=False))
        known = Counter(zip(*(reference[i:] for i in range(n)), strict=False))
        matched = sum(min(count, known[gram]) for gram, count in counts.items())
        if n == 1 and not matched:
            return 0.0
        logs += math.log((matched or EPSILON) / max(1, counts.total())) / order
    brevity = min(0.0, 1 - len(reference) / len(hypothesis))
    return min(1.0, math.exp(brevity + logs))


class Bleu2:
    """Sentence BLEU-2 against the reference report, in [0, 1]; a PairMetric. 0 without a word in common."""

    name = "bleu_2"

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One score a pair, in [0, 1]."""
        check_pairs(references, hypotheses)
        return [
            sentence_bleu(radcliq_tokens(hypothesis), radcliq_tokens(reference))
            for reference, hypothesis in zip(references, hypotheses, strict=True)
        ]
