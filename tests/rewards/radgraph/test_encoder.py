"""Vectors of words against the encoder run on one text, or one window of it, at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from rewards.radgraph import RadGraph
from rewards.radgraph.pieces import MAX_PIECES, MAX_WORDS, Pieces

ATOL = 1e-5
BERT = "_embedder.token_embedder_bert._matched_embedder.transformer_model."


@pytest.fixture(scope="module")
def plain(archive: Path) -> BertModel:
    """The encoder as transformers has it, without anything of this package."""
    model = BertModel(BertConfig.from_pretrained(archive / "encoder", attn_implementation="eager")).eval()
    weights = torch.load(archive / "weights.th")
    model.load_state_dict({name.removeprefix(BERT): weights[name] for name in weights if name.startswith(BERT)})
    return model


def one_by_one(plain: BertModel, radgraph: RadGraph, text: Pieces) -> Tensor:
    vectors = []
    for at in range(0, len(text.ids), 510):
        row = torch.tensor([[radgraph.pieces.first, *text.ids[at : at + 510], radgraph.pieces.last]])
        vectors.append(plain(input_ids=row).last_hidden_state[0, 1:-1])
    parts = torch.cat(vectors).split(text.counts)
    return torch.stack([part.mean(dim=0) if len(part) else torch.zeros(32) for part in parts])


@torch.inference_mode()
def test_words_of_many_texts_are_those_of_each_alone(plain: BertModel, radgraph: RadGraph, reports: list[str]):
    texts = radgraph.pieces.cut([report.split() for report in reports[:9]])
    found = radgraph.model.encoder(texts)
    torch.testing.assert_close(
        found, torch.cat([one_by_one(plain, radgraph, text) for text in texts]), atol=ATOL, rtol=0
    )


@torch.inference_mode()
@pytest.mark.parametrize("count", [509, 510, 511, 1300])
def test_a_long_text_is_read_in_windows(plain: BertModel, radgraph: RadGraph, count: int):
    [short, text] = radgraph.pieces.cut([["heart"], ["xyz"] * (count // 3) + ["heart"] * (count % 3)])
    assert len(text.ids) == count
    found = radgraph.model.encoder([short, text])
    torch.testing.assert_close(found[1:], one_by_one(plain, radgraph, text), atol=ATOL, rtol=0)


@torch.inference_mode()
def test_a_word_without_pieces_is_0(plain: BertModel, radgraph: RadGraph):
    [text] = radgraph.pieces.cut([["no", "\u200b\x00", "heart"]])
    assert text.counts == (1, 0, 1)
    found = radgraph.model.encoder([text])
    assert found[1].abs().sum() == 0
    torch.testing.assert_close(found, one_by_one(plain, radgraph, text), atol=ATOL, rtol=0)


def test_no_more_is_read_than_the_limits_on_words_and_pieces(radgraph: RadGraph):
    words, long_words = radgraph.pieces.cut([["heart"] * 3000, ["qwxz" * 20] * 300])
    assert len(words.words) == MAX_WORDS
    assert len(long_words.ids) == MAX_PIECES // 80 * 80
    assert len(long_words.words) == MAX_PIECES // 80


def test_slashes_before_a_stop_are_not_shown_to_the_encoder(radgraph: RadGraph):
    plain, slashed = radgraph.pieces.cut([[".", "?"], ["/.", "/?"]])
    assert plain.ids == slashed.ids
    assert slashed.words == ("/.", "/?")
