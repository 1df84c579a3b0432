"""A RadGraph archive with random weights: what the published ones hold, in any size, for measuring and for tests.

What lives here: the archive, and weights under which entities and relations are about as frequent as in real reports.
What does not: anything that reads one.

Sizes of the heads are those of DyGIE++'s training configuration, which the published models use. The word pieces are
those of the texts at hand: every word that is there twice, and letters.
"""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from rewards.radgraph import RadGraph
from rewards.radgraph.model import ours
from rewards.radgraph.spans import Spans, best_of_each, enumerate_spans
from rewards.radgraph.words import Variant, words_of

LABELS: dict[Variant, tuple[str, ...]] = {
    "radgraph": ("ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U"),
    "radgraph-xl": (
        "Anatomy::definitely present",
        "Observation::definitely present",
        "Observation::definitely absent",
        "Observation::uncertain",
    ),
}
RELATIONS = ("modify", "located_at", "suggestive_of")
MAX_SPAN_WIDTH, FEATURE_SIZE, HIDDEN, LAYERS, SPANS_PER_WORD = 8, 20, 150, 2, 0.5
ENTITY_SHARE, RELATION_SHARE, SPREAD = 0.015, 0.02, 4.0
"""Of spans, for each label; of scored pairs, for each label; standard deviation of scores."""
BERT = "_embedder.token_embedder_bert._matched_embedder.transformer_model"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True, slots=True)
class Encoder:
    """Size of the text encoder."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int


PUBLISHED = Encoder(768, 12, 12, 30_522)
TINY = Encoder(32, 2, 2, 1_000)


def build_archive(
    folder: Path, encoder: Encoder, texts: Sequence[str], variant: Variant = "radgraph", *, seed: int = 0
) -> None:
    """Write an archive whose weights find something in ``texts``."""
    torch.manual_seed(seed)
    _write_encoder(folder / "encoder", encoder, [words_of(text, variant) for text in texts])
    _write_config(folder, variant)
    weights = _random_weights(folder, encoder, variant)
    torch.save(weights, folder / "weights.th")
    torch.save(_calibrated(folder, variant, weights, texts[:50]), folder / "weights.th")


def _write_encoder(folder: Path, encoder: Encoder, texts: Sequence[Sequence[str]]) -> None:
    counts = Counter(word.lower() for words in texts for word in words)
    letters = sorted({letter for word in counts for letter in word} | set(string.ascii_lowercase + string.digits))
    frequent = sorted(word for word, count in counts.items() if count > 1 and len(word) > 1)
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *frequent][: encoder.vocabulary]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(pieces), "utf-8")
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    BertConfig(
        vocab_size=encoder.vocabulary,
        hidden_size=encoder.hidden,
        num_hidden_layers=encoder.layers,
        num_attention_heads=encoder.heads,
        intermediate_size=4 * encoder.hidden,
    ).save_pretrained(folder)


def _write_config(folder: Path, variant: Variant) -> None:
    bert = {"type": "pretrained_transformer_mismatched", "max_length": 512, "model_name": str(folder / "encoder")}
    modules = {
        "coref": {"coref_prop": 0, "max_antecedents": 100, "spans_per_word": 0.3},
        "events": {
            "argument_spans_per_word": 0.8,
            "loss_weights": {"arguments": 1, "trigger": 0.2},
            "trigger_spans_per_word": 0.3,
        },
        "ner": {},
        "relation": {"spans_per_word": SPANS_PER_WORD},
    }
    model = {
        "type": "dygie",
        "embedder": {"token_embedders": {"bert": bert}},
        "feature_size": FEATURE_SIZE,
        "feedforward_params": {"dropout": 0.4, "hidden_dims": HIDDEN, "num_layers": LAYERS},
        "initializer": {"regexes": []},
        "loss_weights": {"coref": 0, "events": 0, "ner": 0.2, "relation": 1},
        "max_span_width": MAX_SPAN_WIDTH,
        "module_initializer": {"regexes": []},
        "modules": modules,
        "target_task": "relation",
    }
    reader = {"type": "dygie", "max_span_width": MAX_SPAN_WIDTH, "token_indexers": {"bert": bert}}
    _write_json(folder / "config.json", {"dataset_reader": reader, "model": model})
    labels = {"ner": ("", *LABELS[variant]), "relation": RELATIONS}
    (folder / "vocabulary").mkdir()
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*tags\n*labels\n")
    for kind, names in labels.items():
        (folder / "vocabulary" / f"{variant}__{kind}_labels.txt").write_text("\n".join(names) + "\n")


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2))


class _Weights(dict[str, Tensor]):
    """Weights of a whole DyGIE++ model by its names, those included that RadGraph has no use for."""

    def network(self, hidden: str, output: str, inputs: int, outputs: int) -> None:
        """Two hidden layers and a linear one."""
        for index, (a, b) in enumerate(pairwise((inputs, *(HIDDEN,) * LAYERS))):
            self.linear(f"{hidden}._linear_layers.{index}", a, b)
        self.linear(output, HIDDEN, outputs)

    def linear(self, name: str, inputs: int, outputs: int) -> None:
        self[f"{name}.weight"] = nn.init.xavier_normal_(torch.empty(outputs, inputs))
        self[f"{name}.bias"] = torch.zeros(outputs)


def _random_weights(folder: Path, encoder: Encoder, variant: Variant) -> dict[str, Tensor]:
    bert = BertModel(BertConfig.from_pretrained(folder / "encoder")).state_dict()
    weights = _Weights({f"{BERT}.{name}": weight for name, weight in bert.items()})
    span = 2 * encoder.hidden + FEATURE_SIZE
    weights["_endpoint_span_extractor._span_width_embedding.weight"] = torch.randn(MAX_SPAN_WIDTH, FEATURE_SIZE)
    entity, relation = f"_ner._ner_scorers.{variant}__ner_labels", f"{variant}__relation_labels"
    weights.network(f"{entity}.0._module", f"{entity}.1._module", span, len(LABELS[variant]))
    mention = f"_relation._mention_pruners.{relation}._scorer"
    weights.network(f"{mention}.0._module", f"{mention}.1._module", span, 1)
    scorer = f"_relation._relation_scorers.{relation}"
    weights.network(f"_relation._relation_feedforwards.{relation}", scorer, 3 * span, len(RELATIONS))
    pruner = "_coref._mention_pruner._scorer"
    weights.network(f"{pruner}.0._module", f"{pruner}.1._module", span, 1)
    antecedent = "_coref._antecedent"
    weights.network(f"{antecedent}_feedforward._module", f"{antecedent}_scorer._module", 3 * span + FEATURE_SIZE, 1)
    weights.linear("_coref._f_network._linear_layers.0", 2 * span, span)
    weights["_coref._distance_embedding.weight"] = torch.randn(10, FEATURE_SIZE)
    weights["_events._distance_embedding.weight"] = torch.randn(10, FEATURE_SIZE)
    return dict(weights)


@torch.inference_mode()
def _calibrated(folder: Path, variant: Variant, weights: dict[str, Tensor], texts: Sequence[str]) -> dict[str, Tensor]:
    """The weights with output layers under which labels have their shares in ``texts``.

    What keeps a span for relations is made to resemble what makes it an entity, as training would: two random scorers
    would keep hardly any entity, and so leave hardly a relation.
    """
    radgraph = RadGraph(folder, variant=variant, device="cpu")
    heads, pieces = radgraph.model.heads, radgraph.pieces.cut([words_of(text, variant) for text in texts])
    words, lengths = radgraph.model.encoder(pieces), torch.tensor([len(text.words) for text in pieces])
    spans = enumerate_spans(lengths, MAX_SPAN_WIDTH)
    _set_share(heads.entity.output, heads.of_spans(heads.entity, words, spans), ENTITY_SHARE)
    heads.mention.load_state_dict(heads.entity.state_dict() | _mean_output(heads.entity.output))
    mention = heads.of_spans(heads.mention, words, spans)[:, 0]
    kept = best_of_each(mention, spans.text, (lengths * SPANS_PER_WORD).ceil().long())
    heads.mention.output.bias -= mention[kept].median()
    mention = mention[kept] - mention[kept].median()
    pairs = list(heads.of_pairs(words, Spans(*(part[kept] for part in spans))))
    added = torch.cat([mention[subject] + mention[target] for subject, target, _ in pairs])
    _set_share(heads.relation.output, torch.cat([scores for *_, scores in pairs]), RELATION_SHARE, added[:, None])
    found = radgraph.model.state_dict()
    return {name: found.get(ours(name, variant), weight).clone() for name, weight in weights.items()}


def _mean_output(output: nn.Linear) -> dict[str, Tensor]:
    return {f"output.{name}": value.mean(dim=0, keepdim=True) for name, value in output.state_dict().items()}


def _set_share(output: nn.Linear, scores: Tensor, share: float, added: Tensor | float = 0.0) -> None:
    """Scale ``output``, which gave ``scores`` [n, labels]; let ``share`` of them, with ``added``, be above 0."""
    scale = SPREAD / scores.std(dim=0)
    output.weight *= scale[:, None]
    output.bias.copy_(-(scores * scale + added).quantile(1 - share, dim=0))
