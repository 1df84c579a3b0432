"""CheXbert (Smit et al., 2020): a BERT that labels reports, and the similarity of its [CLS] embeddings.

What lives here: the network, its published checkpoint, labels and embeddings from one pass. What does not: where the
checkpoint lies (scorers.py) and the rule-based labels (text/labels.py).

The checkpoint is a torch file with ``model_state_dict``: ``bert.*`` of bert-base-uncased and ``linear_heads.N.*``, with
or without ``module.`` before. Its first 13 heads choose among blank, positive, negative and uncertain; the last, No
Finding, between blank and positive. Reports are read as its authors read them: white space becomes one space, and of
more than 512 word pieces the first 511 and [SEP] remain. The similarity is the cosine that RadCliQ takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from rewards.categories import NO_FINDING, Status
from rewards.text.batches import token_batches
from rewards.text.pair import check_pairs, readable

CHECKPOINT: Final = "chexbert.pth"
BACKBONE: Final = "bert-base-uncased"

HEADS: Final = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    NO_FINDING,
)
"""Category of each head, in the order of the checkpoint."""

CLASSES: Final = (None, Status.POSITIVE, Status.NEGATIVE, Status.UNCERTAIN)
"""What a head's classes mean; No Finding has the first two."""

MAX_PIECES: Final = 512
_WHITE_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Reading:
    """What CheXbert makes of one report.

    Attributes:
        labels: category → status; a category it finds blank is absent.
        embedding: of [CLS], (768,) with the published checkpoint.
    """

    labels: dict[str, Status]
    embedding: Tensor


class CheXbert:
    """The labeller.

    Args:
        folder: holds ``chexbert.pth``, and the configuration and tokenizer of bert-base-uncased; without them those
            come from the transformers cache.
        device: torch's; the GPU where there is one.

    Raises:
        OSError: a file is missing.
        ValueError: the checkpoint is of another network.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        backbone: Path | str = folder if (folder / "config.json").is_file() else BACKBONE
        config: Any = AutoConfig.from_pretrained(backbone, local_files_only=True)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(backbone, local_files_only=True)
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        bert = AutoModel.from_config(config, add_pooling_layer=False)
        heads = nn.ModuleList(nn.Linear(config.hidden_size, 2 if name == NO_FINDING else 4) for name in HEADS)
        network = nn.ModuleDict({"bert": bert, "linear_heads": heads})
        _load(network, folder / CHECKPOINT)
        network.eval().requires_grad_(False).to(self._device)
        self._bert: Any = bert
        self._heads = heads

    def read(self, reports: Sequence[str]) -> list[Reading]:
        """Labels and embedding of each report, each distinct one read once; the batch does not matter."""
        distinct = list(dict.fromkeys(reports))
        tokens = [self._tokens(report) for report in distinct]
        readings: dict[str, Reading] = {}
        for batch in token_batches(tokens, self._tokenizer.pad_token_id):
            with torch.inference_mode():
                states = self._bert(batch.ids.to(self._device), attention_mask=batch.mask.to(self._device))
                embeddings = states.last_hidden_state[:, 0]
                chosen = torch.stack([head(embeddings).argmax(-1) for head in self._heads], dim=1).tolist()
            for row, embedding, classes in zip(batch.rows, embeddings.float().cpu(), chosen, strict=True):
                readings[distinct[row]] = Reading(_labels(classes), embedding)
        return [readings[report] for report in reports]

    def _tokens(self, report: str) -> list[int]:
        text = _WHITE_SPACE.sub(" ", readable(report)).strip()
        return list(self._tokenizer.encode(text, truncation=True, max_length=MAX_PIECES))


class CheXbertSimilarity:
    """Cosine of the [CLS] embeddings of a pair, in [-1, 1]; a PairMetric."""

    name = "chexbert"

    def __init__(self, model: CheXbert) -> None:
        self._model = model

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One cosine a pair."""
        check_pairs(references, hypotheses)
        readings = self._model.read([*references, *hypotheses])
        pairs = zip(readings[: len(references)], readings[len(references) :], strict=True)
        return [float(torch.cosine_similarity(ref.embedding, hyp.embedding, dim=0)) for ref, hyp in pairs]


def _labels(classes: Sequence[int]) -> dict[str, Status]:
    statuses = zip(HEADS, (CLASSES[index] for index in classes), strict=True)
    return {name: status for name, status in statuses if status is not None}


def _load(network: nn.Module, path: Path) -> None:
    checkpoint: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if "model_state_dict" not in checkpoint:
        raise ValueError(f"{path}: no model_state_dict in it; it is not CheXbert's checkpoint")
    state = {key.removeprefix("module."): value for key, value in checkpoint["model_state_dict"].items()}
    # The pooler is never used, and position_ids were saved by older versions of transformers.
    state = {key: value for key, value in state.items() if not key.startswith(("bert.pooler.", _POSITION_IDS))}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: it does not fit the configuration beside it: {str(error)[:300]}") from error


_POSITION_IDS = "bert.embeddings.position_ids"
