"""Reports to annotate: those of Open-i, or made up where that data set is not at hand.

What lives here: the texts, and rollouts that resemble them. What does not: anything that reads them.
"""

from __future__ import annotations

import random
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

SECTIONS = ("FINDINGS", "IMPRESSION")
SUBJECTS = (
    "The heart", "The cardiac silhouette", "The mediastinum", "The left lung base", "The right upper lobe",
    "The trachea", "The thoracic spine", "The left costophrenic angle", "The central venous catheter", "The aorta",
)  # fmt: skip
STATES = (
    "is normal in size", "is mildly enlarged", "shows a patchy airspace opacity", "is clear", "is unchanged",
    "shows degenerative changes", "is blunted, likely a small effusion", "is tortuous and calcified",
    "shows no focal consolidation, pneumothorax, or pleural effusion", "may represent atelectasis or pneumonia",
)  # fmt: skip


def open_i(tarball: Path, count: int) -> list[str]:
    """Findings and impression of the first ``count`` distinct reports of Open-i's NLMCXR_reports.tgz."""
    texts: dict[str, None] = {}
    with tarfile.open(tarball) as tar:
        for name in sorted(name for name in tar.getnames() if name.endswith(".xml")):
            file = tar.extractfile(name)
            parts = ET.parse(file).iter("AbstractText") if file else ()
            text = " ".join(
                part.text for part in parts if part.text and part.get("Label") in {"FINDINGS", "IMPRESSION"}
            )
            if text:
                texts[text] = None
            if len(texts) == count:
                break
    return list(texts)


def made_up(count: int, seed: int = 0) -> list[str]:
    """Distinct reports of three to nine sentences."""
    draw = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        sentences = (f"{draw.choice(SUBJECTS)} {draw.choice(STATES)}." for _ in range(draw.randint(3, 9)))
        texts[" ".join(sentences)] = None
    return list(texts)


def rollouts(reference: str, others: Sequence[str], count: int, draw: random.Random) -> list[str]:
    """``count`` distinct texts of as many sentences as ``reference``, two in five of them from ``others``."""
    own = reference.split(". ")
    foreign = [sentence for other in draw.sample(others, min(len(others), 2 * count)) for sentence in other.split(". ")]
    texts: dict[str, None] = {}
    while len(texts) < count:
        text = ". ".join(sentence if draw.random() < 0.6 else draw.choice(foreign) for sentence in own)
        if text != reference:
            texts[text] = None
    return list(texts)
