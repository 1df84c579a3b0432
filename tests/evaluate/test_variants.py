"""Tables of variants: values, stars after Holm's correction, pooled seeds, files."""

from __future__ import annotations

import csv
import io

import pytest

from boxmed_ray.config import ConfigError
from boxmed_ray.evaluate.concept_figures import ConceptRecord
from boxmed_ray.evaluate.evaluation import Evaluation, FigureValue, ReportRecord, Samples, figures_of
from boxmed_ray.evaluate.variants import (
    Cell,
    baseline_rows,
    pool_seeds,
    table_csv,
    table_headings,
    table_markdown,
    variant_table,
)
from tests.evaluate.examples import TARGET, record

FAR = (60.0, 60.0, 90.0, 90.0)
NONE = "<think>none</think><answer>none</answer>"


def samples(good: bool, count: int = 12) -> Samples:
    """Right boxes and reports, or boxes beside the target and reports about something else."""
    grounding = [record(str(i), greedy=((TARGET if good else FAR),)) for i in range(count)]
    said = "No pleural effusion or pneumothorax." if good else "There is a large mass on the left side."
    reports = [ReportRecord(str(i), "No pleural effusion or pneumothorax.", said) for i in range(count)]
    names = [f"{kind} {i}" for kind in ("grounding", "report", "concepts") for i in range(count)]
    return Samples(
        grounding,
        reports,
        dict.fromkeys(names, "d"),
        concepts=[ConceptRecord(str(i), NONE, NONE) for i in range(count)],
    )


def test_a_worse_variant_is_starred_an_equal_one_is_not_and_the_reference_is_last() -> None:
    rows = variant_table(samples(True), {"worse": samples(False), "same": samples(True)}, "ours", resamples=20)
    assert list(rows) == ["worse", "same", "ours"]
    assert rows["worse"]["mean IoU"].value == 0
    assert rows["worse"]["mean IoU"].stars == "**"
    assert rows["worse"]["BLEU-4"].stars == "**"
    assert rows["same"]["mean IoU"].stars == ""
    assert rows["ours"]["mean IoU"] == Cell(1.0)
    assert rows["worse"]["mean IoU"].low == 1.0


def test_stars_are_by_p_corrected_over_the_whole_table() -> None:
    assert [Cell(0, p_holm=p).stars for p in (None, 0.2, 0.04, 0.009)] == ["", "", "*", "**"]
    alone = variant_table(samples(True), {"worse": samples(False)}, "ours", resamples=5)["worse"]["mean IoU"]
    many = {f"worse {i}": samples(False) for i in range(3)}
    among = variant_table(samples(True), many, "ours", resamples=5)["worse 0"]["mean IoU"]
    assert alone.p == among.p
    assert alone.p_holm is not None
    assert among.p_holm is not None
    assert among.p_holm > alone.p_holm


def test_seeds_are_pooled_as_samples_of_their_own() -> None:
    pooled = pool_seeds([samples(True, 3), samples(False, 3)])
    assert len({r.prompt_id for r in pooled.grounding}) == len(pooled.grounding) == 6
    assert figures_of(pooled)["grounding"].values()["mean_iou"] == pytest.approx(0.5)
    assert set(pooled.digests) == {
        f"{k} {s}/{i}" for k in ("grounding", "report", "concepts") for s in (0, 1) for i in range(3)
    }
    rows = variant_table(pooled, {"same": pool_seeds([samples(True, 3), samples(False, 3)])}, "ours", resamples=5)
    assert rows["same"]["mean IoU"].value == rows["ours"]["mean IoU"].value
    one = samples(True)
    assert pool_seeds([one]) is one


def test_baselines_are_rows_over_the_prompts_of_all_seeds() -> None:
    def evaluation(value: float, n: int) -> Evaluation:
        figure = FigureValue(value=1, low=1, high=1, n=n, better="more", variant="", baselines={"random_box": value})
        return Evaluation(
            name="e", model="m", adapter=None, data="phantom", data_hash="0", seed=0, resamples=5, versions={},
            grounding={"mean_iou": figure, "soft_f1": figure}, reports={}, missing={},
        )  # fmt: skip

    assert baseline_rows([evaluation(0.1, 30), evaluation(0.3, 10)]) == {
        "random box": {"mean IoU": Cell(pytest.approx(0.15))}
    }


def test_variants_of_other_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="same samples"):
        variant_table(samples(True, 3), {"other": samples(True, 4)}, "ours", resamples=5)


def test_a_table_is_written_for_papers_and_for_programs() -> None:
    rows = {
        "w/o": {"BLEU-4": Cell(0.11, 0.01, 0.03, 0.0004, 0.002)},
        "ours": {"BLEU-4": Cell(0.134), "GREEN": Cell(float("nan"))},
    }
    assert table_headings(rows) == ["BLEU-4", "GREEN"]
    assert table_markdown(rows).splitlines()[2:] == ["| w/o | 0.110** | – |", "| ours | 0.134 | – |"]
    lines = list(csv.DictReader(io.StringIO(table_csv(rows))))
    assert lines[0] == {"variant": "w/o", "figure": "BLEU-4", "value": "0.11", "reference_minus_low": "0.01",
                        "reference_minus_high": "0.03", "p": "0.0004", "p_holm": "0.002"}  # fmt: skip
    assert lines[2]["value"] == ""
