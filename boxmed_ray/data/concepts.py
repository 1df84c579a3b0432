"""From the words of data sets onto the knowledge banks: which disease and which region a label means.

What lives here: readable tables and the rule that turns a box into a region. What does not: the
banks themselves (knowledge.py), reading files (readers/). Left and right are the patient's, so the
patient's left is on the right of a frontal image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from boxmed_ray.data.knowledge import DISEASES, REGIONS
from boxmed_ray.data.study import Box, Finding
from rewards.categories import NO_FINDING


@dataclass(frozen=True, slots=True)
class Concept:
    """What one label of a data set means: how a report says it, and its place in the banks."""

    phrase: str
    disease: str | None
    region: str | None = None
    """Set where the label itself names the place; otherwise the box does."""


NIH_LABELS: Final[dict[str, Concept]] = {
    "Atelectasis": Concept("Atelectasis.", "Atelectasis"),
    "Cardiomegaly": Concept("Cardiomegaly.", "Cardiomegaly", "cardiac silhouette"),
    "Consolidation": Concept("Consolidation.", "Consolidation"),
    "Edema": Concept("Edema.", "Edema"),
    "Effusion": Concept("Effusion.", "Pleural Effusion"),
    # CheXpert has no category for emphysema, fibrosis and hernia: they keep their words only.
    "Emphysema": Concept("Emphysema.", None),
    "Fibrosis": Concept("Fibrosis.", None),
    "Hernia": Concept("Hernia.", None),
    # The box list says Infiltrate, the entry list Infiltration.
    "Infiltrate": Concept("Infiltrate.", "Lung Opacity"),
    "Infiltration": Concept("Infiltrate.", "Lung Opacity"),
    "Mass": Concept("Mass.", "Lung Lesion"),
    "Nodule": Concept("Nodule.", "Lung Lesion"),
    "Pleural_Thickening": Concept("Pleural thickening.", "Pleural Other"),
    "Pneumonia": Concept("Pneumonia.", "Pneumonia"),
    "Pneumothorax": Concept("Pneumothorax.", "Pneumothorax"),
}
"""The 14 labels of NIH ChestX-ray14 (Wang et al., 2017) in both spellings of its files."""

NIH_DENIALS: Final[tuple[Finding, ...]] = tuple(
    Finding(phrase=phrase, disease=NO_FINDING, region=region)
    for phrase, region in (
        ("No cardiomegaly.", "cardiac silhouette"),
        ("No atelectasis.", "whole lung"),
        ("No infiltrate.", "whole lung"),
        ("No pneumonia.", "whole lung"),
        ("No mass.", "whole lung"),
        ("No nodule.", "whole lung"),
        ("No effusion.", "whole lung"),
        ("No pneumothorax.", "whole lung"),
    )
)
"""What an image labelled No Finding denies. Other images deny nothing: their labels are not exhaustive."""

APICAL_HEIGHT: Final = 0.2
"""A box with its centre above this share of the image height lies in an apical zone."""


def concept_of_name(name: str) -> Concept | None:
    """What a category name means: a disease or region of the banks or an NIH label, in any case; else None."""
    wanted = name.strip().lower()
    for disease in DISEASES[1:]:
        if disease.lower() == wanted:
            return Concept(f"{disease.capitalize()}.", disease)
    for region in REGIONS:
        if region == wanted:
            return Concept(f"{region.capitalize()}.", None, region)
    return next((concept for label, concept in NIH_LABELS.items() if label.lower() == wanted), None)


def region_of_box(box: Box, width: int, height: int) -> str:
    """The region in which a lung or pleural finding of a frontal image lies, by its box alone.

    The side is that of the box's centre; the apical zone begins where the centre is in the upper
    fifth; a box that covers the middle half of the width is of the whole lung. Approximate: nothing
    knows where the lungs of this image are. Hilar regions are never inferred.
    """
    if box.x1 < width / 4 and box.x2 > 3 * width / 4:
        return "whole lung"
    side = "right" if box.x1 + box.x2 < width else "left"
    part = "apical zone" if (box.y1 + box.y2) / 2 < APICAL_HEIGHT * height else "lung"
    return f"{side} {part}"


_BY_PHRASE: Final = {concept.phrase: label for label, concept in reversed(NIH_LABELS.items())}


def label_of(finding: Finding) -> str:
    """The name under which results of a finding are reported.

    The official label where the phrase is one (Mass and Nodule are two labels but one disease), else
    the disease, else the region, else the phrase.
    """
    return _BY_PHRASE.get(finding.phrase) or finding.disease or finding.region or finding.phrase


def report_diseases(report: str) -> frozenset[str]:
    """Diseases that a report asserts in the words of the tables above; denials do not count.

    Reads reports that were composed from labels, and what a model trained on them writes. It is no labeller of free
    text.
    """
    sentences = (sentence.strip() + "." for sentence in report.split("."))
    labels = (_BY_PHRASE.get(sentence) for sentence in sentences)
    diseases = (NIH_LABELS[label].disease for label in labels if label is not None)
    return frozenset(disease for disease in diseases if disease is not None)
