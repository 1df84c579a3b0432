"""METEOR of report pairs by NLTK, which needs WordNet's data.

What lives here: finding WordNet on this machine. What does not: METEOR itself (``nltk.translate.meteor_score``).

NLTK's is METEOR of 2005 (exact words, stems, WordNet's synonyms; α = .9, β = 3, γ = .5), not the Java METEOR 1.5 that
captioning papers run, and it looks synonyms up by stems ("larg"), so that it finds fewer: its numbers compare with
NLTK's alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

from rewards.scorers import MissingScorerError
from rewards.text.bleu import word_tokens
from rewards.text.pair import check_pairs

VARIANT = "NLTK's METEOR (exact, Porter stem, WordNet synonym; α=.9 β=3 γ=.5), word tokens, mean over reports"


def meteor(references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
    """One score a pair, in [0, 1].

    Raises:
        MissingScorerError: WordNet is not on this machine.
    """
    from nltk.translate.meteor_score import single_meteor_score

    known = _wordnet()
    check_pairs(references, hypotheses)
    return [
        float(single_meteor_score(word_tokens(reference), word_tokens(hypothesis), wordnet=known))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]


@cache
def _wordnet() -> Any:
    """NLTK's reader over its own copy. Debian's package lacks a file (``lexnames``) that the reader opens."""
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            place = nltk.data.find(name)
        except LookupError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other languages' WordNets are not there
            return WordNetCorpusReader(place, None)
    raise MissingScorerError(
        "meteor is missing: WordNet (under Princeton's terms) is in none of NLTK's folders; to get it: "
        "python -m nltk.downloader wordnet, or unpack NLTK's wordnet.zip in $NLTK_DATA/corpora"
    )
