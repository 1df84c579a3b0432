"""Folders of BERTScore, CheXbert and RadGraph with random weights, at the size of the published ones or tiny.

What lives here: building them. What they score means nothing; what scoring costs is that of the published weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from _radgraph_archive import PUBLISHED, TINY, build_archive
from torch import nn
from transformers import BertConfig, BertModel

from rewards.categories import NO_FINDING
from rewards.chexbert import HEADS

_DISTILLED = 6
"""Layers of distilroberta-base, of which BERTScore runs five; width and heads are BERT's."""


def build_scorers(folder: Path, texts: Sequence[str], *, tiny: bool) -> dict[str, Path]:
    """Write all three below ``folder``; name → path, as a configuration has them."""
    build_archive(folder / "radgraph", TINY if tiny else PUBLISHED, texts)
    encoder = folder / "radgraph" / "encoder"
    config = BertConfig.from_pretrained(encoder)
    heads = nn.ModuleList(nn.Linear(config.hidden_size, 2 if name == NO_FINDING else 4) for name in HEADS)
    network = nn.ModuleDict({"bert": BertModel(config), "linear_heads": heads})
    shutil.copytree(encoder, folder / "chexbert")
    torch.save({"model_state_dict": network.state_dict()}, folder / "chexbert" / "chexbert.pth")
    shutil.copytree(encoder, folder / "bertscore")
    settings = json.loads((encoder / "config.json").read_text()) | {"num_hidden_layers": _DISTILLED}
    BertModel(BertConfig.from_dict(settings)).save_pretrained(folder / "bertscore")
    tokenizer = folder / "bertscore" / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"model_max_length": 512}))
    return {name: folder / name for name in ("radgraph", "chexbert", "bertscore")}
