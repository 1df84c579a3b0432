"""Tiny encoders with random weights, saved as the published ones are."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from torch import nn
from transformers import BertConfig, BertModel, BertTokenizerFast, RobertaConfig, RobertaModel, RobertaTokenizerFast

CORPUS = [
    "There is a small left pleural effusion. No pneumothorax.",
    "The heart size is normal. Lungs are clear.",
    "Moderate cardiomegaly with pulmonary edema; bibasilar atelectasis.",
    "No acute cardiopulmonary process.",
]

REPORTS = [
    *CORPUS,
    "  Stable cardiomegaly.\nNo effusion  or pneumothorax. ",
    "Ein kleiner Pleuraerguss. 胸水なし. Нет выпота.",
    "...",
    "x",
    "effusion " * 400,
]


def tiny_roberta(folder: Path, layers: int = 6) -> Path:
    """A RoBERTa of width 32 with a byte-level BPE trained on CORPUS."""
    folder.mkdir(parents=True, exist_ok=True)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(CORPUS, vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    bpe.save_model(str(folder))
    files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    RobertaTokenizerFast(**files, model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=bpe.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=66,
        initializer_range=0.3,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


class PublishedCheXbert(nn.Module):
    """The published network, written down layer by layer as its authors' code has it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertModel(config)
        self.linear_heads = nn.ModuleList([nn.Linear(config.hidden_size, 4) for _ in range(13)])
        self.linear_heads.append(nn.Linear(config.hidden_size, 2))


def tiny_chexbert(folder: Path) -> PublishedCheXbert:
    """A checkpoint as the published one (under DataParallel, with pooler), and the network that wrote it."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(CORPUS, vocab_size=300)
    pieces.save_model(str(folder))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    config = BertConfig(
        vocab_size=pieces.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.3,
    )
    config.save_pretrained(folder)
    torch.manual_seed(1)
    network = PublishedCheXbert(config).eval()
    for head in network.linear_heads:
        nn.init.normal_(head.weight, std=2)  # so that every class is chosen for some report
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    state["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save({"epoch": 1, "model_state_dict": state}, folder / "chexbert.pth")
    return network
