"""The 14 categories of CheXpert, which labellers and label rewards share.

What lives here: their names in the order of the knowledge bank. What does not: how text is read for them
(text/labels.py, chexbert.py).
"""

from typing import Final

NO_FINDING: Final = "No Finding"
SUPPORT_DEVICES: Final = "Support Devices"

CATEGORIES: Final[tuple[str, ...]] = (
    NO_FINDING,
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    SUPPORT_DEVICES,
)
"""The 14 CheXpert categories (Irvin et al., 2019)."""
