"""BERTScore (Zhang et al., 2020): how well the words of two texts match each other in a language model's space.

What lives here: the score for any local encoder, with the settings of the package ``bert-score``: layer, rescaling
with a baseline, IDF weights. What does not: where models lie (scorers.py).

Equal to the package to 1e-5 (tests/rewards/text/test_bertscore.py) but for two things: a text without tokens is 0
before rescaling and is not rescaled, and IDF weights come from a corpus that is given once. Over the texts of a
call, as some tools take them, the score of a pair depends on its batch, and with one reference all weights are 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewards.text.batches import token_batches
from rewards.text.pair import check_pairs, readable

DISTILROBERTA_LAYERS = 5
DISTILROBERTA_BASELINE = 0.8473319
"""F1 of unrelated English sentences with distilroberta-base at layer 5, from the tables of ``bert-score`` (MIT)."""

_PAIRS_AT_ONCE = 512
"""Bounds the memory of embeddings: at most 1.6 GB, 100 MB with reports of a hundred words."""


@dataclass(frozen=True, slots=True)
class _Embedded:
    """A text: unit vectors of its tokens (tokens, width), and their weights (tokens,), which sum to 1 or are 0."""

    vectors: Tensor
    weights: Tensor


class BertScore:
    """F1 of BERTScore with a local encoder; a PairMetric.

    The score of a pair is the same to 1e-5 alone, in any batch and in any order: pairs are matched one by one, and
    padding is masked.

    Args:
        folder: of a BERT or RoBERTa encoder with its tokenizer, or its name in the transformers cache.
        layers: of the encoder that run; the last one gives the vectors.
        baseline: F1 of unrelated texts, which becomes 0 (``(f - b) / (1 - b)``); None does not rescale.
        idf_corpus: texts whose document frequencies weigh the tokens; None weighs all alike.
        name: see PairMetric.
        device: torch's; the GPU where there is one.

    Raises:
        OSError: the folder or its files cannot be read.
        ValueError: fewer layers in the encoder than asked for, or an empty corpus.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        layers: int,
        baseline: float | None = None,
        idf_corpus: Sequence[str] | None = None,
        name: str = "bertscore",
        device: str | None = None,
    ) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.name = name
        self._baseline = baseline
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if layers > len(model.encoder.layer):
            raise ValueError(f"{folder}: the encoder has {len(model.encoder.layer)} layers, not {layers}")
        model.encoder.layer = model.encoder.layer[:layers]
        self._model: Any = model.eval().requires_grad_(False).to(self._device)
        self._prefix = " " if model.config.model_type == "roberta" and _prefixes(folder) else ""
        self._limit = min(self._tokenizer.model_max_length, _positions(model.config))
        self._specials = frozenset((self._tokenizer.cls_token_id, self._tokenizer.sep_token_id))
        self._idf = None if idf_corpus is None else self._frequencies(idf_corpus)

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """F1 of each pair, rescaled where there is a baseline; 0 where a text has no tokens."""
        check_pairs(references, hypotheses)
        scores = [0.0] * len(references)
        # Pairs of one reference side by side, so that it is embedded once however many chunks there are.
        order = sorted(range(len(references)), key=references.__getitem__)
        for start in range(0, len(order), _PAIRS_AT_ONCE):
            chunk = order[start : start + _PAIRS_AT_ONCE]
            embedded = self._embed(list(dict.fromkeys(text for i in chunk for text in (references[i], hypotheses[i]))))
            for i in chunk:
                scores[i] = self._f1(embedded[references[i]], embedded[hypotheses[i]])
        return scores

    def _f1(self, reference: _Embedded, hypothesis: _Embedded) -> float:
        if len(reference.weights) <= 2 or len(hypothesis.weights) <= 2:  # nothing but the special tokens
            return 0.0
        similarity = hypothesis.vectors @ reference.vectors.T
        precision = float(similarity.amax(1) @ hypothesis.weights)
        recall = float(similarity.amax(0) @ reference.weights)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        return f1 if self._baseline is None else (f1 - self._baseline) / (1 - self._baseline)

    def _embed(self, texts: Sequence[str]) -> dict[str, _Embedded]:
        tokens = [self._tokens(text) for text in texts]
        embedded: dict[str, _Embedded] = {}
        for batch in token_batches(tokens, self._tokenizer.pad_token_id):
            with torch.inference_mode():
                encoded = self._model(batch.ids.to(self._device), attention_mask=batch.mask.to(self._device))
                vectors = torch.nn.functional.normalize(encoded.last_hidden_state.float(), dim=-1).cpu()
            for row, vectors_of_row in zip(batch.rows, vectors, strict=True):
                kept = vectors_of_row[: len(tokens[row])].clone()  # a view would keep the padding in memory
                embedded[texts[row]] = _Embedded(kept, self._weights(tokens[row]))
        return embedded

    def _tokens(self, text: str) -> list[int]:
        text = readable(text).strip()
        encoded = self._tokenizer.encode(
            self._prefix + text if text else "", add_special_tokens=True, truncation=True, max_length=self._limit
        )
        return list(encoded)

    def _weights(self, tokens: Sequence[int]) -> Tensor:
        if self._idf is None:
            weights = torch.tensor([float(token not in self._specials) for token in tokens])
        else:
            weights = torch.tensor([self._idf.get(token, self._unseen) for token in tokens])
        return weights / weights.sum() if weights.sum() else weights

    def _frequencies(self, corpus: Sequence[str]) -> Mapping[int, float]:
        if not corpus:
            raise ValueError("the corpus of IDF weights is empty")
        counts = Counter(token for text in corpus for token in set(self._tokens(text)))
        self._unseen = math.log(len(corpus) + 1)
        return {token: math.log((len(corpus) + 1) / (count + 1)) for token, count in counts.items()}


def _prefixes(folder: Path | str) -> bool:
    """Whether the first word of a text is read as one that follows a space.

    ``bert-score`` asks RoBERTa's tokenizer for that, and published numbers have it. A tokenizer that says no in so
    many words is obeyed: fast ones, which transformers 5 has alone, do not hear the question.
    """
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    return bool(get_tokenizer_config(folder, local_files_only=True).get("add_prefix_space", True))


def _positions(config: Any) -> int:
    """Tokens that the encoder has positions for; RoBERTa's first come after its padding index."""
    reserved = config.pad_token_id + 1 if config.model_type == "roberta" else 0
    return int(config.max_position_embeddings) - reserved
