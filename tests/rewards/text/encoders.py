"""Tiny encoders with random weights, saved as real ones are."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, BertTokenizerFast, RobertaConfig, RobertaModel, RobertaTokenizerFast

CORPUS = [
    "There is a small left pleural effusion. No pneumothorax.",
    "The heart size is normal. Lungs are clear.",
    "Moderate cardiomegaly with pulmonary edema; bibasilar atelectasis.",
    "No acute cardiopulmonary process.",
]


def tiny_roberta(folder: Path, layers: int = 6) -> Path:
    """A RoBERTa of width 32 with a byte-level BPE trained on CORPUS."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(CORPUS, vocab_size=400, special_tokens=specials)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save_model(str(folder))
    tokenizer = RobertaTokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=bpe.get_vocab_size(), hidden_size=32, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=66, initializer_range=0.3,
    )  # fmt: skip
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def bert_tokenizer(folder: Path) -> int:
    """A WordPiece tokenizer trained on CORPUS, saved; returns the size of its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(CORPUS, vocab_size=300)
    pieces.save_model(str(folder))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    return pieces.get_vocab_size()


def tiny_bert_config(vocabulary: int) -> BertConfig:
    """A BERT of width 32."""
    return BertConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip


__all__ = ["CORPUS", "BertModel", "bert_tokenizer", "tiny_bert_config", "tiny_roberta"]
