"""Where scorers are looked for, what is said of a missing one, and metrics by name over tiny scorers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks._radgraph_archive import TINY, build_archive
from benchmarks._radgraph_reports import made_up
from rewards.metrics import METRICS, build_metric, check_metric
from rewards.registry import build, check
from rewards.sample import Sample
from rewards.scorers import ENVIRONMENT, MissingScorerError, locate
from tests.rewards.encoders import CORPUS, tiny_chexbert, tiny_roberta


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of scorers as $BOXMED_SCORERS names one."""
    folder = tmp_path_factory.mktemp("scorers")
    build_archive(folder / "radgraph", TINY, made_up(60))
    build_archive(folder / "radgraph_xl", TINY, made_up(60), "radgraph-xl")
    tiny_roberta(folder / "bertscore")
    tiny_chexbert(folder / "chexbert")
    (folder / "idf_corpus").write_text("\n".join(CORPUS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def test_a_configured_path_comes_before_the_environment(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ENVIRONMENT, str(tiny))
    assert locate("chexbert", {}) == tiny / "chexbert"
    with pytest.raises(MissingScorerError, match=f"{tmp_path / 'mine'} does not exist"):
        locate("chexbert", {"chexbert": tmp_path / "mine"})


def test_a_downloaded_archive_is_found_in_its_folder(tmp_path: Path):
    archive = tmp_path / "radgraph.tar.gz"
    with pytest.raises(MissingScorerError, match=r"lacks radgraph\.tar\.gz or weights\.th"):
        locate("radgraph", {"radgraph": tmp_path})
    archive.touch()
    assert locate("radgraph", {"radgraph": tmp_path}) == locate("radgraph", {"radgraph": archive}) == archive


def test_a_folder_of_scorers_may_begin_with_a_tilde(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tiny.parent))
    monkeypatch.setenv(ENVIRONMENT, f"~/{tiny.name}")
    assert locate("radgraph", {}) == tiny / "radgraph"


@pytest.mark.parametrize(("name", "folder"), [("radgraph", "radgraph"), ("radgraph_xl", "radgraph-xl")])
def test_an_archive_that_was_downloaded_before_is_found(name: str, folder: str, tmp_path: Path):
    place = tmp_path / "xdg" / "boxmed-rl" / folder
    with pytest.raises(MissingScorerError):
        locate(name, {})
    place.mkdir(parents=True)
    assert locate(name, {}) == place
    with pytest.raises(MissingScorerError, match="does not exist"):
        locate(name, {name: tmp_path / "mine"})


@pytest.mark.parametrize("name", sorted({need for metric in METRICS.values() for need in metric.needs} - {"minilm"}))
def test_a_missing_scorer_says_how_to_get_it(name: str, tmp_path: Path):
    with pytest.raises(MissingScorerError, match=rf"(?s){name} is missing.*nothing says where.*scorers\.{name}="):
        locate(name, {})
    with pytest.raises(MissingScorerError, match=rf"(?s)does not exist; to get it.*{tmp_path / 'x'}"):
        locate(name, {name: tmp_path / "x"})


def test_a_folder_that_lacks_a_file_is_refused_by_its_name(tiny: Path, tmp_path: Path):
    (tmp_path / "config.json").write_bytes((tiny / "chexbert" / "config.json").read_bytes())
    with pytest.raises(MissingScorerError, match=r"lacks chexbert\.pth and tokenizer\.json or vocab\.txt"):
        locate("chexbert", {"chexbert": tmp_path})


def test_a_missing_scorer_stops_a_run_before_it_starts():
    for weights in ({"radcliq_v1": 1.0}, {"iou": 1.0, "chexbert": 0.5}, {"bertscore-idf": 1.0}):
        with pytest.raises(MissingScorerError, match="is missing"):
            check(weights, {})
        with pytest.raises(MissingScorerError, match="is missing"):
            build(weights)
    check({"clinical-lite": 1.0, "bleu_2": 1.0, "format": 1.0}, {})


def test_an_unreadable_scorer_is_an_error_and_no_zero(tiny: Path, tmp_path: Path):
    for file in (tiny / "bertscore").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(MissingScorerError, match="'bertscore' cannot be loaded") as caught:
        build_metric("bertscore", {"bertscore": tmp_path})
    assert "\n" not in str(caught.value)


def test_names_say_what_changes_the_number(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    paths = {"bertscore": tiny / "bertscore", "idf_corpus": tiny / "idf_corpus"}
    assert build_metric("bertscore", paths).name == "bertscore"
    name = build_metric("bertscore_idf", paths).name
    assert name.startswith("bertscore_idf[")
    assert len(name) == len("bertscore_idf[01234567]")
    monkeypatch.setenv(ENVIRONMENT, str(tiny))
    assert build_metric("radgraph", {}).name == "radgraph_f1"
    assert build_metric("radgraph_xl", {}).name == "radgraph_xl_f1"
    assert build_metric("radcliq_v1", {}).name == "radcliq_v1"
    assert build_metric("radcliq_v0_xl_idf", {}).name == f"radcliq_v0_xl{name.removeprefix('bertscore')}"
    assert check_metric("clinical-lite", {}) == "clinical_lite"
    assert {"radcliq_v0", "radcliq_v1", "radcliq_v1_xl", "radcliq_v1_idf", "radcliq_v1_xl_idf"} <= METRICS.keys()


def test_every_reward_over_tiny_scorers_is_finite_and_not_below_its_floor(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ENVIRONMENT, str(tiny))
    names = list(METRICS)
    reward = build(dict.fromkeys(names, 1.0))
    texts = ["", "...", "<think>no end", "é" * 10_000, "胸水なし。心拡大なし。", "\x00\ufffd\u2028", *CORPUS]
    scores = reward.score([Sample(text, (), True, (), target_text=CORPUS[0]) for text in texts])
    assert not any(score.flags & {"scorer_error"} for score in scores)
    for score in scores:
        assert all(math.isfinite(score.components[name]) for name in names)
        assert all(score.components[name] >= METRICS[name].floor for name in names)
    for score in scores[:3]:
        assert score.components == {name: METRICS[name].floor for name in names}
