"""Archives as users have them: unpacked, as a tarball, incomplete, or of another model; and where they come from."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from benchmarks._radgraph_archive import TINY, build_archive
from rewards.radgraph import RadGraph, RadGraphMetric, download, published_archive


@pytest.fixture
def copy(archive: Path, tmp_path: Path) -> Path:
    shutil.copytree(archive, tmp_path / "radgraph")
    return tmp_path / "radgraph"


def packed(folder: Path, file: Path) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        for part in folder.iterdir():
            tar.add(part, part.name)
    return file


def test_a_tarball_is_unpacked_beside_itself_once(
    archive: Path, radgraph: RadGraph, reports: list[str], tmp_path: Path
):
    file = packed(archive, tmp_path / "radgraph.tar.gz")
    assert RadGraph(file, device="cpu").annotate(reports[:3]) == radgraph.annotate(reports[:3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["radgraph", "radgraph.tar.gz"]
    file.write_bytes(b"")
    assert RadGraph(file, device="cpu").archive.folder == tmp_path / "radgraph"


def test_half_a_tarball_is_refused_and_leaves_nothing(archive: Path, tmp_path: Path):
    file = packed(archive, tmp_path / "radgraph.tar.gz")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cannot be unpacked .* is the download complete"):
        RadGraph(file)
    assert [path.name for path in tmp_path.iterdir()] == ["radgraph.tar.gz"]


def test_radgraph_xl_has_labels_of_its_own_and_is_named_in_the_score(tmp_path: Path, reports: list[str]):
    build_archive(tmp_path / "xl", TINY, reports, "radgraph-xl")
    radgraph = RadGraph(tmp_path / "xl", variant="radgraph-xl", device="cpu")
    labels = {entity.label for annotation in radgraph.annotate(reports) for entity in annotation.entities}
    assert "Observation::definitely absent" in labels
    assert RadGraphMetric(radgraph).name == "radgraph_xl_f1"
    assert RadGraphMetric(radgraph, "simple").name == "radgraph_xl_f1_simple"
    with pytest.raises(
        ValueError, match=r"no archive of 'radgraph': its vocabulary has .*radgraph-xl__ner_labels\.txt"
    ):
        RadGraph(tmp_path / "xl")


def test_a_missing_archive_says_how_to_get_it(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"does not exist; get radgraph\.tar\.gz .* StanfordAIMI/RRG_scorers"):
        RadGraph(tmp_path / "radgraph")


@pytest.mark.parametrize("part", ["config.json", "weights.th", "vocabulary"])
def test_an_incomplete_archive_names_what_it_lacks(copy: Path, part: str):
    path = copy / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=f"no RadGraph archive: it lacks {part}"):
        RadGraph(copy)


def test_a_model_of_another_kind_is_refused(copy: Path):
    config = json.loads((copy / "config.json").read_text())
    config["model"]["modules"]["coref"]["coref_prop"] = 2
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="propagates coreference"):
        RadGraph(copy)
    (copy / "config.json").write_text(json.dumps({"model": {"type": "simple_tagger"}}))
    with pytest.raises(ValueError, match=r"config\.json does not describe a DyGIE\+\+ model: KeyError\('modules'\)"):
        RadGraph(copy)


def test_weights_that_do_not_fit_the_description_are_refused(copy: Path):
    weights = torch.load(copy / "weights.th")
    del weights["_relation._relation_scorers.radgraph__relation_labels.bias"]
    torch.save(weights, copy / "weights.th")
    with pytest.raises(ValueError, match=r"weights\.th does not fit .*heads\.relation\.output\.bias"):
        RadGraph(copy)
    (copy / "weights.th").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"weights\.th cannot be read"):
        RadGraph(copy)


def test_weights_as_old_transformers_wrote_them_load(copy: Path, radgraph: RadGraph, reports: list[str]):
    weights = torch.load(copy / "weights.th")
    bert = "_embedder.token_embedder_bert._matched_embedder.transformer_model"
    weights[f"{bert}.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save(weights, copy / "weights.th")
    assert RadGraph(copy, device="cpu").annotate(reports[:3]) == radgraph.annotate(reports[:3])


def test_without_the_encoder_the_error_says_where_its_files_go(copy: Path, monkeypatch):
    config = (copy / "config.json").read_text()
    name = json.loads(config)["dataset_reader"]["token_indexers"]["bert"]["model_name"]
    (copy / "config.json").write_text(config.replace(name, "some-lab/some-encoder"))
    shutil.rmtree(copy / "encoder")
    with pytest.raises(OSError, match=r"some-lab/some-encoder.* cannot be loaded; without a network put .*/encoder"):
        RadGraph(copy)


def test_an_unknown_variant_is_refused(archive: Path):
    with pytest.raises(ValueError, match="no RadGraph model 'radgraph-xxl'; use one of: radgraph, radgraph-xl"):
        RadGraph(archive, variant="radgraph-xxl")  # type: ignore[arg-type]


def test_without_a_network_the_download_says_how_to_do_without(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"radgraph-xl\.tar\.gz cannot be downloaded .*; get radgraph\.tar\.gz"):
        published_archive("radgraph-xl")


def test_a_download_is_unpacked_into_the_users_cache_once(archive: Path, tmp_path: Path, monkeypatch):
    asked = []

    def fetched(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(packed(archive, tmp_path / name))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetched)
    for _ in range(2):
        folder = published_archive("radgraph")
        assert folder == tmp_path / "cache" / "boxmed-rl" / "radgraph"
    assert asked == [(download.REPOSITORY, "radgraph.tar.gz")]
    RadGraph(folder, device="cpu")
