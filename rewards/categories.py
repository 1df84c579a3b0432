"""The 14 categories of CheXpert and what a report may say of them, which labellers and label rewards share.

What lives here: the names, in the order of the knowledge bank. What does not: how text is read for them
(text/labels.py, chexbert.py).
"""

from enum import StrEnum
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


class Status(StrEnum):
    """What a report says of something it mentions."""

    POSITIVE = "positive"
    UNCERTAIN = "uncertain"
    NEGATIVE = "negative"
