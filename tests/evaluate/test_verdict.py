"""The verdict says what is bad as plainly as what is good."""

from __future__ import annotations

import pytest

from boxmed_ray.evaluate.summary import Summary
from boxmed_ray.evaluate.verdict import p_words, verdict
from tests.evaluate.examples import grounding, summary


def with_(base: Summary, **changes: object) -> Summary:
    return base.model_copy(update=changes)


def test_a_good_run_has_good_remarks_only():
    remarks = verdict(summary())
    assert all(remark.good for remark in remarks)
    assert "0.660 → 0.720 greedy" in remarks[0].text


@pytest.mark.parametrize(("svr", "p"), [(0.72, 0.2), (0.6, 1e-9)])
def test_no_gain_or_no_significance_is_bad_news(svr: float, p: float):
    remark = verdict(summary(svr=svr, p=p))[0]
    assert not remark.good
    assert "not shown" in remark.text


def test_labels_below_the_baseline_are_named_with_both_figures():
    run = summary()
    stages = run.grounding.model_copy(update={"svr": grounding(0.5, {"Lung Lesion": 0.2, "Pneumothorax": 0.6})})
    remark = verdict(with_(run, grounding=stages))[1]
    assert not remark.good
    assert "Lung Lesion (0.200 against 0.310)" in remark.text
    assert "1 of 2 labels" in remark.text


def test_a_changed_backbone_bad_form_and_repeated_reports_are_bad_news():
    run = summary()
    assert run.report is not None
    assert run.grounding.svr is not None
    bad = with_(
        run,
        backbone_unchanged=False,
        report=run.report.model_copy(update={"n": 100, "distinct": 2}),
        grounding=run.grounding.model_copy(update={"svr": run.grounding.svr.model_copy(update={"format_rate": 0.5})}),
    )
    assert [remark.good for remark in verdict(bad)] == [True, True, False, False, False]


def test_a_run_without_svr_adapter_or_anything_still_has_a_verdict():
    run = summary()
    stages = run.grounding.model_copy(update={"svr": None, "adapter_off": None})
    part = with_(run, grounding=stages, wilcoxon_p=None, report=None, backbone_unchanged=None)
    assert [remark.text[:3] for remark in verdict(part)] == ["MCL", "99."]
    nothing = with_(part, grounding=stages.model_copy(update={"mcl": None}))
    assert verdict(nothing) == []


@pytest.mark.parametrize(
    ("p", "words"),
    [(0.2, "p = 0.2"), (0.0123, "p = 0.012"), (7.1e-21, "p = 7 × 10⁻²¹"), (0.0, "p < 1 × 10⁻³⁰⁰")],
)
def test_p_in_words(p: float, words: str):
    assert p_words(p).replace("\u00a0", " ") == words
