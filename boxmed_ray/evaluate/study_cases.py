"""Cases of a page: held-out images with all that was asked of them, the worst answered first.

What lives here: gathering a study's prompts, report and reasoning, and their order. What does not: pixels (cases.py),
the pages (evaluation_page.py, comparison_page.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boxmed_ray.evaluate.cases import data_uri
from boxmed_ray.evaluate.evaluation import Samples
from boxmed_ray.evaluate.grounding import GroundingRecord
from boxmed_ray.evaluate.report_figures import rouge_columns

SHOWN = 12


@dataclass(frozen=True, slots=True)
class StudyCase:
    """One held-out image: its prompts with a true box, and what the model wrote of it."""

    study_id: str
    prompts: Sequence[GroundingRecord]
    reference: str | None
    generated: str | None
    reasoning: str | None
    true_reasoning: str | None

    @property
    def iou(self) -> float:
        """Mean over its prompts."""
        return sum(record.iou for record in self.prompts) / len(self.prompts)


def study_cases(samples: Samples) -> dict[str, StudyCase]:
    """Study → its case, of every image with a true box; of every one with a report where none has a box."""
    prompts: dict[str, list[GroundingRecord]] = {}
    for record in samples.grounding:
        if record.target:
            prompts.setdefault(record.study_id, []).append(record)
    reports = {report.study_id: report for report in samples.reports}
    reasoning = {record.study_id: record for record in samples.concepts}
    return {
        study: StudyCase(
            study_id=study,
            prompts=prompts.get(study, []),
            reference=reports[study].reference if study in reports else None,
            generated=reports[study].generated if study in reports else None,
            reasoning=reasoning[study].generated if study in reasoning else None,
            true_reasoning=reasoning[study].reference if study in reasoning else None,
        )
        for study in prompts or reports
    }


def worst_studies(samples: Samples, count: int = SHOWN) -> list[StudyCase]:
    """From below by the mean IoU of their prompts; by ROUGE-L of their reports where there is no true box."""
    cases = study_cases(samples)
    if any(case.prompts for case in cases.values()):
        worth = {study: case.iou for study, case in cases.items()}
    else:
        texts = [[case.reference or "" for case in cases.values()], [case.generated or "" for case in cases.values()]]
        worth = dict(zip(cases, rouge_columns(*texts)["rouge_l"], strict=True))
    return sorted(cases.values(), key=lambda case: (worth[case.study_id], case.study_id))[:count]


def picture(samples: Samples, study: str) -> str | None:
    """The image in a ``data:`` address; None where it is no longer where it was."""
    path = samples.images.get(study)
    return data_uri(Path(path)) if path and Path(path).is_file() else None
