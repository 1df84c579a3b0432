"""What the labels of the published box data sets mean in the two knowledge banks.

What lives here: one table a data set, from its label to one of the 14 diseases or to None where CheXpert has no
category for it, and where a disease lies that names its own region. What does not: NIH's labels and regions of
boxes (concepts.py), free text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from boxmed_ray.data.concepts import region_of_box
from boxmed_ray.data.knowledge import DISEASES
from boxmed_ray.data.study import Box
from rewards.categories import NO_FINDING, SUPPORT_DEVICES

CHEXPERT: Final[dict[str, str | None]] = {disease.lower(): disease for disease in DISEASES}
"""MS-CXR's categories and MIMIC-CXR's label columns are names of the bank."""

VINDR: Final[dict[str, str | None]] = {
    "aortic enlargement": None,
    "atelectasis": "Atelectasis",
    "calcification": None,
    "cardiomegaly": "Cardiomegaly",
    "clavicle fracture": "Fracture",
    "consolidation": "Consolidation",
    "copd": None,
    "edema": "Edema",
    "emphysema": None,
    "enlarged pa": None,
    "ild": None,
    "infiltration": "Lung Opacity",
    "lung cavity": "Lung Lesion",
    "lung cyst": "Lung Lesion",
    "lung opacity": "Lung Opacity",
    "lung tumor": "Lung Lesion",
    "mediastinal shift": None,
    "no finding": NO_FINDING,
    "nodule/mass": "Lung Lesion",
    "other disease": None,
    "other diseases": None,
    "other lesion": None,
    "pleural effusion": "Pleural Effusion",
    "pleural thickening": "Pleural Other",
    "pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
    "pulmonary fibrosis": None,
    "rib fracture": "Fracture",
    "tuberculosis": None,
}
"""The 22 local and 6 global labels of VinDr-CXR (Nguyen et al., 2022)."""

REFLACX: Final[dict[str, str | None]] = {
    "abnormal mediastinal contour": "Enlarged Cardiomediastinum",
    "acute fracture": "Fracture",
    "fracture": "Fracture",
    "atelectasis": "Atelectasis",
    "consolidation": "Consolidation",
    "enlarged cardiac silhouette": "Cardiomegaly",
    "enlarged hilum": None,
    "groundglass opacity": "Lung Opacity",
    "hiatal hernia": None,
    "high lung volume / emphysema": None,
    "interstitial lung disease": None,
    "lung nodule or mass": "Lung Lesion",
    "mass": "Lung Lesion",
    "nodule": "Lung Lesion",
    "pleural effusion": "Pleural Effusion",
    "pleural thickening": "Pleural Other",
    "pneumothorax": "Pneumothorax",
    "pulmonary edema": "Edema",
    "support devices": SUPPORT_DEVICES,
}
"""Labels of REFLACX (Bigolin Lanfredi et al., 2022), which LATTE-CXR keeps.

Pleural abnormality is left out: effusion and other abnormality in one.
"""

IMAGENOME: Final[dict[str, str | None]] = {
    "airspace opacity": "Lung Opacity",
    "lung opacity": "Lung Opacity",
    "increased reticular markings/ild pattern": None,
    "atelectasis": "Atelectasis",
    "linear/patchy atelectasis": "Atelectasis",
    "lobar/segmental collapse": "Atelectasis",
    "clavicle fracture": "Fracture",
    "rib fracture": "Fracture",
    "spinal fracture": "Fracture",
    "fracture": "Fracture",
    "consolidation": "Consolidation",
    "enlarged cardiac silhouette": "Cardiomegaly",
    "hydropneumothorax": "Pneumothorax",
    "pneumothorax": "Pneumothorax",
    "lung cancer": "Lung Lesion",
    "lung lesion": "Lung Lesion",
    "calcified nodule": "Lung Lesion",
    "mass/nodule (not otherwise specified)": "Lung Lesion",
    "multiple masses/nodules": "Lung Lesion",
    "mediastinal widening": "Enlarged Cardiomediastinum",
    "superior mediastinal mass/enlargement": "Enlarged Cardiomediastinum",
    "pleural effusion": "Pleural Effusion",
    "pleural/parenchymal scarring": "Pleural Other",
    "pneumonia": "Pneumonia",
    "aspiration": "Pneumonia",
    "pulmonary edema/hazy opacity": "Edema",
    "fluid overload/heart failure": "Edema",
}
"""Attributes of Chest ImaGenome (Wu et al., 2021); tubes, lines and devices are a category of their own there."""

IMAGENOME_OBJECTS: Final[dict[str, str | None]] = {
    "abdomen": "abdomen",
    "aortic arch": "mediastinum",
    "cardiac silhouette": "cardiac silhouette",
    "left cardiac silhouette": "cardiac silhouette",
    "right cardiac silhouette": "cardiac silhouette",
    "right atrium": "cardiac silhouette",
    "carina": "trachea",
    "trachea": "trachea",
    "cavoatrial junction": "mediastinum",
    "descending aorta": "mediastinum",
    "mediastinum": "mediastinum",
    "upper mediastinum": "mediastinum",
    "svc": "mediastinum",
    "spine": "spine",
    **{
        f"{side} {part}": f"{side} {region}"
        for side in ("left", "right")
        for part, region in (
            ("lung", "lung"),
            ("upper lung zone", "lung"),
            ("mid lung zone", "lung"),
            ("lower lung zone", "lung"),
            ("costophrenic angle", "lung"),
            ("apical zone", "apical zone"),
            ("hilar structures", "hilar structures"),
        )
    },
}
"""Objects of Chest ImaGenome that lie in one of the 12 regions; others (clavicles, diaphragms, …) lie in none."""

PADCHEST: Final[dict[str, str | None]] = {
    **dict.fromkeys(("atelectasis", "laminar atelectasis", "lobar atelectasis", "segmental atelectasis",
                     "round atelectasis", "total atelectasis", "atelectasis basal"), "Atelectasis"),
    "cardiomegaly": "Cardiomegaly",
    "consolidation": "Consolidation",
    "pulmonary edema": "Edema",
    "mediastinal enlargement": "Enlarged Cardiomediastinum",
    "superior mediastinal enlargement": "Enlarged Cardiomediastinum",
    **dict.fromkeys(("fracture", "rib fracture", "callus rib fracture", "clavicle fracture", "vertebral fracture",
                     "humeral fracture"), "Fracture"),
    **dict.fromkeys(("nodule", "multiple nodules", "mass", "pulmonary mass", "lung metastasis", "cavitation",
                     "granuloma"), "Lung Lesion"),
    **dict.fromkeys(("infiltrates", "alveolar pattern", "ground glass pattern", "interstitial pattern",
                     "reticular interstitial pattern", "reticulonodular interstitial pattern",
                     "increased density"), "Lung Opacity"),
    **dict.fromkeys(("pleural effusion", "loculated pleural effusion",
                     "loculated fissural effusion"), "Pleural Effusion"),
    **dict.fromkeys(("pleural thickening", "apical pleural thickening", "calcified pleural thickening",
                     "calcified pleural plaques", "pleural plaques", "pleural mass", "minor fissure thickening",
                     "major fissure thickening", "fissure thickening"), "Pleural Other"),
    "pneumonia": "Pneumonia",
    "atypical pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
    **dict.fromkeys(("electrical device", "pacemaker", "dual chamber device", "single chamber device", "dai",
                     "artificial heart valve", "artificial aortic heart valve", "artificial mitral heart valve",
                     "catheter", "central venous catheter", "central venous catheter via jugular vein",
                     "central venous catheter via subclavian vein", "central venous catheter via umbilical vein",
                     "reservoir central venous catheter", "nsg tube", "endotracheal tube", "tracheostomy tube",
                     "chest drain tube", "gastrostomy tube", "nephrostomy tube", "ventriculoperitoneal drain tube"),
                    SUPPORT_DEVICES),
    "normal": NO_FINDING,
}  # fmt: skip
"""Those of PadChest's 174 findings (Bustos et al., 2020) that are one of the 14 diseases."""

_OWN_REGION: Final = {"Cardiomegaly": "cardiac silhouette", "Enlarged Cardiomediastinum": "mediastinum"}
_OF_LUNG_OR_PLEURA: Final = frozenset(DISEASES) - _OWN_REGION.keys() - {NO_FINDING, "Fracture", SUPPORT_DEVICES}


def disease_of(labels: Iterable[str], table: Mapping[str, str | None]) -> str | None:
    """The one disease that labels mean, in any case; None where they mean none or several."""
    diseases = {table.get(label.strip().lower()) for label in labels} - {None}
    return diseases.pop() if len(diseases) == 1 else None


def region_of(disease: str | None, boxes: Sequence[Box], width: int, height: int) -> str | None:
    """Where a finding of a frontal image lies.

    The heart's and the mediastinum's own region; of a disease of lung or pleura the region its boxes share;
    else None.
    """
    if disease in _OWN_REGION:
        return _OWN_REGION[disease]
    if disease not in _OF_LUNG_OR_PLEURA:
        return None
    regions = {region_of_box(box, width, height) for box in boxes}
    return regions.pop() if len(regions) == 1 else None


def as_phrase(label: str) -> str:
    """A label as a report would say it: "Pleural_thickening" becomes "Pleural thickening."."""
    words = " ".join(label.replace("_", " ").split()).rstrip(".")
    return f"{words[:1].upper()}{words[1:]}."
