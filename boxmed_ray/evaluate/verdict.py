"""What is good and what is bad about a run, in plain sentences drawn from its summary.

What lives here: the rules and the words. What does not: the figures themselves.
"""

from __future__ import annotations

from typing import NamedTuple

from boxmed_ray.evaluate.summary import Summary, labels_below_baseline

SIGNIFICANT = 0.01
WELL_FORMED = 0.98
_COLLAPSED = 0.1
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Remark(NamedTuple):
    """One sentence and whether it is good news."""

    good: bool
    text: str


def verdict(summary: Summary) -> list[Remark]:
    """Remarks on a run, the most important first."""
    remarks = [_svr_over_mcl(summary), _over_baseline(summary), _form(summary), _backbone(summary), _reports(summary)]
    return [remark for remark in remarks if remark is not None]


def p_words(p: float) -> str:
    """A p value as text; what underflows is not called 0."""
    if p >= 1e-3:
        return f"p = {p:.2g}"
    digits, _, exponent = f"{max(p, 1e-300):.0e}".partition("e")
    power = str(int(exponent)).translate(_RAISED)
    return f"p {'=' if p > 1e-300 else '<'} {digits}\u00a0×\u00a010{power}"


def _svr_over_mcl(summary: Summary) -> Remark | None:
    mcl, svr, p = summary.grounding.mcl, summary.grounding.svr, summary.wilcoxon_p
    if mcl is None or svr is None or p is None:
        return None
    figures = f"mean IoU {mcl.mean_iou:.3f} → {svr.mean_iou:.3f} greedy (one-tailed Wilcoxon {p_words(p)})"
    if mcl.sampled_mean_iou is not None and svr.sampled_mean_iou is not None:
        figures += f", {mcl.sampled_mean_iou:.3f} → {svr.sampled_mean_iou:.3f} sampled at temperature 1"
    if p < SIGNIFICANT and svr.mean_iou > mcl.mean_iou:
        return Remark(True, f"SVR places findings better than MCL: {figures}.")
    return Remark(False, f"SVR is not shown to place findings better than MCL: {figures}.")


def _over_baseline(summary: Summary) -> Remark | None:
    stage = "svr" if summary.grounding.svr is not None else "mcl"
    model = getattr(summary.grounding, stage)
    if model is None or summary.grounding.constant_box is None:
        return None
    below = labels_below_baseline(summary, stage)
    if not below:
        return Remark(True, f"{stage.upper()} is above the constant box on every one of {len(model.per_label)} labels.")
    constant = summary.grounding.constant_box.per_label
    words = ", ".join(f"{x} ({model.per_label[x].mean_iou:.3f} against {constant[x].mean_iou:.3f})" for x in below)
    return Remark(
        False,
        f"{stage.upper()} is not above a constant box that never sees the image on {len(below)} of "
        f"{len(model.per_label)} labels: {words}.",
    )


def _form(summary: Summary) -> Remark | None:
    model = summary.grounding.svr or summary.grounding.mcl
    if model is None:
        return None
    good = model.format_rate >= WELL_FORMED
    return Remark(good, f"{'' if good else 'Only '}{model.format_rate:.1%} of greedy responses are well-formed.")


def _backbone(summary: Summary) -> Remark | None:
    if summary.backbone_unchanged is None:
        return None
    if summary.backbone_unchanged:
        return Remark(True, "The backbone is bit for bit the same after the adapter stage.")
    return Remark(False, "The backbone CHANGED during the adapter stage, which must never happen.")


def _reports(summary: Summary) -> Remark | None:
    report = summary.report
    if report is None:
        return None
    figures = f"BLEU-4 {report.bleu_4:.3f}, ROUGE-L {report.rouge_l:.3f}, disease F1 {report.disease_f1:.3f}"
    if report.n and report.distinct and report.distinct < max(2, _COLLAPSED * report.n):
        return Remark(
            False, f"The reports repeat themselves ({report.distinct} distinct ones among {report.n}): {figures}."
        )
    return Remark(True, f"Generated reports reach {figures}.")
