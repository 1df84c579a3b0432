"""CheXbert against the published code's steps on random weights: labels, embeddings, similarity, batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from rewards.categories import Status
from rewards.chexbert import HEADS, CheXbert, CheXbertSimilarity, Reading
from tests.rewards.encoders import REPORTS, PublishedCheXbert, tiny_chexbert


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chexbert")


@pytest.fixture(scope="module")
def published(folder: Path) -> PublishedCheXbert:
    return tiny_chexbert(folder)


@pytest.fixture(scope="module")
def model(folder: Path, published: PublishedCheXbert) -> CheXbert:
    return CheXbert(folder, device="cpu")


def reference(network: PublishedCheXbert, folder: Path, report: str) -> tuple[list[int], torch.Tensor]:
    """Classes and [CLS] of one report, step by step as f1chexbert 0.0.2 goes."""
    tokenizer = BertTokenizer.from_pretrained(folder)
    words = tokenizer.tokenize(" ".join(report.split()))
    ids = [tokenizer.cls_token_id, *tokenizer.convert_tokens_to_ids(words), tokenizer.sep_token_id]
    if len(ids) > 512:
        ids = [*ids[:511], tokenizer.sep_token_id]
    batch = torch.tensor([ids])
    with torch.no_grad():
        cls = network.bert(batch, attention_mask=torch.ones(batch.shape))[0][:, 0, :]
        return [int(head(cls).argmax(dim=1)) for head in network.linear_heads], cls[0]


MEANING = {0: None, 1: Status.POSITIVE, 2: Status.NEGATIVE, 3: Status.UNCERTAIN}


def test_labels_and_embeddings_equal_the_published_steps(model: CheXbert, published: PublishedCheXbert, folder: Path):
    seen = set()
    for report, reading in zip([*REPORTS, ""], model.read([*REPORTS, ""]), strict=True):
        classes, cls = reference(published, folder, report)
        assert [reading.labels.get(name) for name in HEADS] == [MEANING[c] for c in classes]
        assert torch.allclose(reading.embedding, cls, atol=1e-5)
        seen |= set(classes)
    assert seen == {0, 1, 2, 3}


def test_the_last_head_is_no_finding_and_has_two_classes(model: CheXbert):
    assert [head.out_features for head in model._heads] == [4] * 13 + [2]
    assert HEADS[-1] == "No Finding"


def test_similarity_is_the_cosine_of_the_embeddings(model: CheXbert, published: PublishedCheXbert, folder: Path):
    pairs = [(ref, hyp) for ref in REPORTS for hyp in REPORTS]
    scores = CheXbertSimilarity(model).score_pairs([ref for ref, _ in pairs], [hyp for _, hyp in pairs])
    cls = {report: reference(published, folder, report)[1] for report in REPORTS}
    expected = [float(cls[a] @ cls[b] / (cls[a].norm() * cls[b].norm())) for a, b in pairs]
    assert scores == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def alone(model: CheXbert) -> dict[str, Reading]:
    return {report: model.read([report])[0] for report in REPORTS}


@settings(max_examples=25)
@given(batch=st.lists(st.sampled_from(REPORTS), max_size=20))
def test_a_report_is_read_the_same_in_any_batch_and_order(model: CheXbert, alone: dict[str, Reading], batch: list[str]):
    for report, reading in zip(batch, model.read(batch), strict=True):
        assert reading.labels == alone[report].labels
        assert torch.allclose(reading.embedding, alone[report].embedding, atol=1e-5)


def test_files_that_are_no_checkpoint_are_refused(folder: Path, published: PublishedCheXbert, tmp_path: Path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"chexbert\.pth"):
        CheXbert(tmp_path)
    torch.save({"weights": {}}, tmp_path / "chexbert.pth")
    with pytest.raises(ValueError, match="no model_state_dict"):
        CheXbert(tmp_path)
    state = dict(published.state_dict())
    del state["linear_heads.13.bias"]
    torch.save({"model_state_dict": state}, tmp_path / "chexbert.pth")
    with pytest.raises(ValueError, match=r"linear_heads\.13\.bias"):
        CheXbert(tmp_path)
