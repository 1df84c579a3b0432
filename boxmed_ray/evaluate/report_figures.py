"""Figures of generated reports that need no model: BLEU, ROUGE-L, and means of scores that came from elsewhere.

What lives here: per-sample counts from sacrebleu and rouge-score, pooled over any choice of reports. What does not:
labels (label_figures.py), scorers with weights (scores.py), METEOR (meteor.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
from sacrebleu.metrics.bleu import BLEU

from boxmed_ray.evaluate.figures import Figure, FigureSet, Rows, Values, mean_figure
from boxmed_ray.evaluate.judge_scores import JUDGED
from boxmed_ray.evaluate.meteor import VARIANT as METEOR
from rewards.text.bleu import word_tokens

ORDERS = (1, 2, 3, 4)
_TOKENS = "word tokens (lower-cased, every punctuation mark a token)"
_BETA = 1.2
"""Weight of recall in the ROUGE-L of COCO's captioning code, which most report papers use."""

SCORES: Mapping[str, tuple[str, int]] = {
    "meteor": (METEOR, 1),
    "clinical_lite": ("label agreement and MiniLM BERTScore, not RadCliQ (docs/rewards.md), mean over reports", 1),
    "bertscore": ("F1, distilroberta-base layer 5, rescaled, without IDF, mean over reports", 1),
    "chexbert_similarity": ("cosine of CheXbert [CLS] embeddings, mean over reports", 1),
    "radgraph": ("RadGraph F1, mean of entities and relations, mean over reports", 1),
    "radgraph_xl": ("RadGraph F1 by RadGraph-XL, mean over reports", 1),
    "radcliq_v0": ("RadCliQ-v0 of radgraph, bertscore, chexbert_similarity and sentence BLEU-2, mean over reports", -1),
    "radcliq_v1": ("RadCliQ-v1 of radgraph, bertscore, chexbert_similarity and sentence BLEU-2, mean over reports", -1),
    **JUDGED,
}
"""Per-report scores that an evaluation may have → their variant, and -1 where less is better."""


def score_kind(name: str) -> str:
    """The entry of SCORES that a score's name belongs to: what stands before the bracket that names its judge."""
    return name.partition("[")[0]


def text_figures(references: Sequence[str], hypotheses: Sequence[str], studies: Sequence[str]) -> FigureSet:
    """BLEU-1 to BLEU-4 of the corpus, and ROUGE-L in two variants, each in [0, 1]."""
    counts = bleu_counts(references, hypotheses)
    columns: dict[str, Values] = {
        f"bleu_{order}": np.array([_bleu(row, order, smooth=True) for row in counts]) for order in ORDERS
    }
    columns |= rouge_columns(references, hypotheses)
    figures = [_bleu_figure(order, counts) for order in ORDERS]
    figures += [
        mean_figure("rouge_l", "F1 (β=1), rouge-score's tokens (letters and digits), mean over reports", columns,
                    "rouge_l"),
        mean_figure("rouge_l_coco", f"F with β={_BETA}, as COCO's captioning code, {_TOKENS}, mean over reports",
                    columns, "rouge_l_coco"),
    ]  # fmt: skip
    return FigureSet(studies, columns, figures)


def score_figures(scores: Mapping[str, Sequence[float]], studies: Sequence[str]) -> FigureSet:
    """Means of the scores of SCORES that there are, over the reports that have one (NaN: has none)."""
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    kinds = {name: SCORES[score_kind(name)] for name in columns}
    figures = [mean_figure(name, kinds[name][0], columns, name, 1 if kinds[name][1] > 0 else -1) for name in columns]
    return FigureSet(studies, columns, figures)


def bleu_counts(references: Sequence[str], hypotheses: Sequence[str]) -> Values:
    """(reports, 10): matched and possible n-grams of orders 1 to 4, tokens of the report and of its reference."""
    metric = BLEU(tokenize="none", smooth_method="none", effective_order=True, force=True)
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        score = metric.sentence_score(" ".join(word_tokens(hypothesis)), [" ".join(word_tokens(reference))])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, dtype=np.float64)


def rouge_columns(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Values]:
    """Both variants of ROUGE-L of each report."""
    plain = RougeScorer(["rougeL"], use_stemmer=False)
    coco = RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_WordTokens())
    pairs = list(zip(references, hypotheses, strict=True))
    return {
        "rouge_l": np.array([plain.score(*pair)["rougeL"].fmeasure for pair in pairs], dtype=np.float64),
        "rouge_l_coco": np.array([_weighted(coco.score(*pair)["rougeL"]) for pair in pairs], dtype=np.float64),
    }


class _WordTokens:
    """``word_tokens`` as rouge-score wants a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return word_tokens(text)


def _weighted(score: tuple[float, float, float]) -> float:
    precision, recall, _ = score
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _bleu(counts: Values, order: int, *, smooth: bool = False) -> float:
    matched, possible = [int(c) for c in counts[:order]], [int(c) for c in counts[4 : 4 + order]]
    score = BLEU.compute_bleu(
        matched, possible, int(counts[8]), int(counts[9]), smooth_method="exp" if smooth else "none",
        effective_order=smooth, max_ngram_order=order,
    )  # fmt: skip
    return float(score.score) / 100


def _bleu_figure(order: int, counts: Values) -> Figure:
    def statistic(rows: Rows) -> float:
        return _bleu(counts[rows].sum(axis=0), order)

    variant = f"corpus BLEU-{order}, one reference, no smoothing, sacrebleu, {_TOKENS}"
    return Figure(f"bleu_{order}", f"{variant}; of one report: smoothed (exp)", statistic, f"bleu_{order}")
