"""`boxmed rewards`: what it prints, and plain errors for files and scorers that are not as they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boxmed_ray import cli
from boxmed_ray.config import ConfigError, load_config
from rewards.scorers import ENVIRONMENT

REFERENCES = ["Small left effusion.", "Heart size is normal.", ""]
HYPOTHESES = ["Small left effusion.", "Cardiomegaly", "No effusion."]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.delenv(ENVIRONMENT, raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["boxmed", "rewards", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        printed = capsys.readouterr()
        return int(exit_.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    refs, hyps = tmp_path / "refs.txt", tmp_path / "hyps.txt"
    refs.write_text("\r\n".join(REFERENCES) + "\r\n", encoding="utf-8-sig", newline="")
    hyps.write_text("\n".join(HYPOTHESES), encoding="utf-8")
    return str(refs), str(hyps)


def test_radcliq_prints_the_composite_as_its_last_word(run):
    code, out, _ = run("radcliq", "--features", "1,1,1,1", "--version", "v1")
    assert code == 0
    assert float(out.split()[-1]) == pytest.approx(-1.4406902828047017, abs=1e-12)
    assert float(run("radcliq", "--features", "0,0,0,0", "--version", "v0")[1].split()[-1]) == pytest.approx(5.51616080)


@pytest.mark.parametrize(
    ("features", "version"), [("1,1,1", "v1"), ("1,1,1,x", "v1"), ("1,1,1,nan", "v1"), ("1,1,1,1", "v3")]
)
def test_radcliq_refuses_what_is_no_feature_vector(run, features: str, version: str):
    code, out, err = run("radcliq", "--features", features, "--version", version)
    assert (code, out) == (2, "")
    assert err.startswith("boxmed: --features")
    assert "Traceback" not in err


def test_score_prints_one_number_a_line_and_the_mean(run, files: tuple[str, str]):
    code, out, err = run("score", "--metric", "bleu-2", "--refs", files[0], "--hyps", files[1])
    *lines, mean = out.splitlines()
    assert code == 0
    assert [float(line) for line in lines] == [pytest.approx(1), 0, 0]
    assert mean == f"mean {1 / 3:.6f}"
    assert "bleu_2 of 3 pairs, more is better" in err


def test_score_reads_both_sides_from_one_json_lines_file(run, tmp_path: Path):
    path = tmp_path / "reports.jsonl"
    rows = [{"reference": r, "generated": h} for r, h in zip(REFERENCES, HYPOTHESES, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--refs", str(path), "--hyps", str(path), "--refs-key", "reference")
    assert run("score", "--metric", "bleu_2", *options, "--key", "generated")[1].startswith("1.000000\n0.000000\n")
    code, _, err = run("score", "--metric", "bleu_2", *options, "--key", "text")
    assert code == 2
    assert "line 1: no text under 'text'; there: reference, generated" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\n", "other.txt has 1;"),
        (b"", "other.txt has 0;"),
        (b"a\nb\n\xff\n", "byte 4 is not UTF-8"),
        (None, "No such file"),
    ],
)
def test_files_that_cannot_be_scored_are_plain_errors(run, files, tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "other.txt"
    if content is not None:
        path.write_bytes(content)
    code, out, err = run("score", "--metric", "bleu_2", "--refs", files[0], "--hyps", str(path))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_missing_scorer_is_an_error_that_says_how_to_get_it(run, files: tuple[str, str], tmp_path: Path):
    options = ("--metric", "radcliq_v1", "--refs", files[0], "--hyps", files[1])
    (tmp_path / "weights.th").touch()
    code, out, err = run("score", *options, "--scorer", f"radgraph={tmp_path}", "--scorer", f"bertscore={tmp_path}")
    assert (code, out) == (2, "")
    assert "bertscore is missing" in err
    assert f"{tmp_path} lacks config.json" in err
    assert "hf download" in err
    assert "NAME one of: bertscore" in run("score", *options, "--scorer", "bert")[2]


def test_a_run_with_a_missing_scorer_is_refused_before_it_has_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from boxmed_ray import pipeline

    monkeypatch.delenv(ENVIRONMENT, raising=False)
    config = load_config("phantom-cpu", [f"runs_dir={tmp_path}", "svr.rewards={radcliq_v1: 1.0}"])
    with pytest.raises(ConfigError, match=r"svr\.rewards: radgraph is missing"):
        pipeline.run(config)
    with pytest.raises(ConfigError, match=r"svr\.rewards: .*'iuo' is unknown"):
        pipeline.run(config.model_copy(update={"svr": config.svr.model_copy(update={"rewards": {"iuo": 1.0}})}))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_with_a_scorer_that_does_not_load_is_refused_before_it_has_a_folder(tmp_path: Path):
    from boxmed_ray import pipeline

    folder = tmp_path / "bertscore"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    config = load_config("phantom-report-cpu", [
        f"runs_dir={tmp_path / 'runs'}", f"scorers.bertscore={folder}", "svr.task_rewards={report: {bertscore: 1}}",
    ])  # fmt: skip
    with pytest.raises(ConfigError, match=r"svr: metric 'bertscore' cannot be loaded"):
        pipeline.run(config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["svr.rewards={bleu_2: 1}"],
            r"svr\.rewards: reward 'bleu_2' reads a report, which grounding prompts do not ask",
        ),
        (
            ["svr.tasks={report: 1}", "mcl.report_share=0.5"],
            r"svr\.rewards: reward 'iou' reads boxes, which report .* svr\.task_rewards\.report=\{clinical_lite",
        ),
        (
            ["svr.tasks={joint: 1}", "mcl.joint_share=0.5", "svr.task_rewards={joint: {joint_radcliq_v1: 1}}"],
            r"svr\.task_rewards\.joint: radgraph is missing",
        ),
        (["svr.rewards={'no.such:f': 1}"], r"svr\.rewards: reward 'no\.such:f' cannot be imported"),
        (["svr.watch.scorers=[bleu]"], r"svr\.watch\.scorers: .*'bleu' is unknown; use one of"),
        (["svr.watch.scorers=[chexbert]"], r"svr\.watch\.scorers: chexbert is missing"),
    ],
)
def test_rewards_that_do_not_fit_their_task_are_refused_before_a_run_has_a_folder(
    overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from boxmed_ray import pipeline

    monkeypatch.delenv(ENVIRONMENT, raising=False)
    config = load_config("phantom-cpu", [f"runs_dir={tmp_path}", *overrides])
    with pytest.raises(ConfigError, match=message):
        pipeline.run(config)
    assert not list(tmp_path.iterdir())


def test_check_lists_every_metric_and_its_remedy(run):
    code, out, _ = run("check")
    assert code == 0
    assert any(line.split()[:2] == ["clinical_lite", "ready"] for line in out.splitlines())
    assert any(line.split()[:2] == ["radcliq_v1", "missing"] for line in out.splitlines())
    assert "hf download StanfordAIMI/RRG_scorers chexbert.pth" in out
