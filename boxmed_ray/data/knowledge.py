"""The two knowledge banks of BoxMed-RL (arXiv 2504.18453 §3.2.1): what a finding may be, and where.

What lives here: the closed vocabularies. What does not: mapping free text onto them (concepts.py).
Left and right are the patient's, as in a report.
"""

from typing import Final

from rewards.categories import CATEGORIES

DISEASES: Final = CATEGORIES
"""The 14 CheXpert categories (Irvin et al., 2019)."""

REGIONS: Final[tuple[str, ...]] = (
    "abdomen",
    "cardiac silhouette",
    "left apical zone",
    "left hilar structures",
    "left lung",
    "mediastinum",
    "right apical zone",
    "right hilar structures",
    "right lung",
    "whole lung",
    "spine",
    "trachea",
)
"""The 12 anatomical regions of the paper."""
