"""Text metrics of generated reports: corpus BLEU-4, ROUGE-L and disease F1.

What lives here: aggregation over a corpus, with libraries doing the counting. What does not: which diseases a
report asserts; the caller brings a reader for its own language.

Tokenisation: BLEU on ``rewards.text.bleu.word_tokens`` (lower-cased; every punctuation mark is a token); ROUGE-L
on rouge-score's own (lower-cased, letters and digits only, no stemming).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from statistics import fmean

from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
from sacrebleu.metrics.bleu import BLEU

from boxmed_ray.evaluate.summary import DiseaseScore, ReportSummary
from rewards.text.bleu import word_tokens

DiseaseReader = Callable[[str], Collection[str]]
"""Report → the diseases that it asserts; denied and unmentioned ones are not in it."""


def bleu_4(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Corpus BLEU-4 without smoothing, one reference each, in [0, 1]."""
    _check(references, hypotheses)
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    texts = [[" ".join(word_tokens(text)) for text in side] for side in (hypotheses, references)]
    return float(metric.corpus_score(texts[0], [texts[1]]).score) / 100


def rouge_l(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Mean over reports of the ROUGE-L F-measure (longest common subsequence), in [0, 1]."""
    _check(references, hypotheses)
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(references, hypotheses, strict=True)
    return fmean(scorer.score(reference, hypothesis)["rougeL"].fmeasure for reference, hypothesis in pairs)


def disease_f1(
    references: Sequence[str], hypotheses: Sequence[str], read: DiseaseReader
) -> tuple[float, dict[str, DiseaseScore]]:
    """Positive-class F1 of each disease over the corpus, and their mean (macro).

    A disease that neither side ever asserts is left out; one that only the hypotheses assert counts 0.
    """
    _check(references, hypotheses)
    said = [
        (set(read(reference)), set(read(hypothesis)))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    names = sorted(set().union(*(true | claimed for true, claimed in said)))
    scores = {name: _disease_score(name, said) for name in names}
    return (fmean(score.f1 for score in scores.values()) if scores else 0.0), scores


def summarise_reports(references: Sequence[str], hypotheses: Sequence[str], read: DiseaseReader) -> ReportSummary:
    """All text metrics of a corpus of (reference, hypothesis) pairs.

    Raises:
        ValueError: no pair, or not as many hypotheses as references.
    """
    macro, per_disease = disease_f1(references, hypotheses, read)
    return ReportSummary(
        bleu_4=bleu_4(references, hypotheses),
        rouge_l=rouge_l(references, hypotheses),
        disease_f1=macro,
        disease_f1_per_label=per_disease,
        n=len(references),
        distinct=len(set(hypotheses)),
    )


def _disease_score(name: str, said: Sequence[tuple[set[str], set[str]]]) -> DiseaseScore:
    hits = sum(name in true and name in claimed for true, claimed in said)
    positives = sum(name in true for true, _ in said)
    claims = sum(name in claimed for _, claimed in said)
    return DiseaseScore(
        f1=2 * hits / (positives + claims),
        precision=hits / claims if claims else 0.0,
        recall=hits / positives if positives else 0.0,
        n=positives,
    )


def _check(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses) or not references:
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses; they must pair, at least one")
