"""Phantom chest radiographs: drawn from a seed, so that every box is exact and no patient is in them.

What lives here: which findings a phantom has and what is said about them. What does not: how they
are drawn (phantom_drawing.py). Left and right are the patient's: the patient's right lung is on the
left of the image.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from boxmed_ray.data.phantom_drawing import SIZE, Canvas
from boxmed_ray.data.study import Finding, Split, Study

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of finding: its bank entry, how it is said and how it is denied.

    Half of the ways of saying it name no side: what the words give away, nobody looks for in the image.
    """

    disease: str
    said: tuple[str, ...]
    denied: tuple[str, ...]
    words: str
    """Pattern by which a report's sentence mentions it."""


KINDS: dict[str, Kind] = {
    "opacity": Kind(
        "Lung Opacity",
        ("There is a {size} opacity.", "{Size} opacity of the {side} lung."),
        ("No focal opacity.", "The lungs are clear of opacity."),
        r"\bopacit",
    ),
    "nodule": Kind(
        "Lung Lesion",
        ("There is a {size} nodule.", "{Size} nodule of the {side} lung."),
        ("No nodule.", "No suspicious nodule is seen."),
        r"\bnodule",
    ),
    "effusion": Kind(
        "Pleural Effusion",
        ("There is a {size} pleural effusion.", "{Size} {side} pleural effusion."),
        ("No pleural effusion.", "No effusion."),
        r"\beffusion",
    ),
    "pneumothorax": Kind(
        "Pneumothorax",
        ("There is a {size} pneumothorax.", "{Size} {side} pneumothorax."),
        ("No pneumothorax.", "There is no pneumothorax."),
        r"\bpneumothorax",
    ),
    "cardiomegaly": Kind(
        "Cardiomegaly",
        ("The heart is enlarged.", "There is cardiomegaly."),
        ("The heart size is normal.", "No cardiomegaly."),
        r"\bheart\b|\bcardiomegaly",
    ),
    "device": Kind(
        "Support Devices",
        ("There is a pacemaker.", "A pacemaker projects over the {side} chest."),
        ("No support device.", "No pacemaker."),
        r"\bpacemaker|\bdevice",
    ),
}
_FINDINGS = (0.12, 0.58, 0.24, 0.06)
"""Probability of 0, 1, 2, 3 findings in one phantom."""
_DENIAL = re.compile(r"\b(?:no|normal|clear of)\b", re.IGNORECASE)


def report_diseases(report: str) -> frozenset[str]:
    """Diseases that a phantom report asserts, read sentence by sentence; denials do not count."""
    found: set[str] = set()
    for sentence in re.split(r"(?<=\.)\s+", report.strip()):
        if _DENIAL.search(sentence):
            continue
        found.update(kind.disease for kind in KINDS.values() if re.search(kind.words, sentence, re.IGNORECASE))
    return frozenset(found)


def _phrase(rng: Rng, kind: Kind, side: str, size: str) -> str:
    text = str(rng.choice(kind.said))
    return text.format(side=side, Side=side.capitalize(), size=size, Size=size.capitalize())


def _size_word(relative: float) -> str:
    return "small" if relative < 1 / 3 else "moderate" if relative < 2 / 3 else "large"


def _draw(rng: Rng) -> tuple[Canvas, list[tuple[str, Finding]]]:
    """Draw one phantom; return the canvas and its positive findings by kind."""
    count = int(rng.choice(len(_FINDINGS), p=_FINDINGS))
    present = [str(name) for name in rng.choice(list(KINDS), count, replace=False)]
    enlarged = "cardiomegaly" in present
    canvas = Canvas(rng, enlarged=enlarged)
    findings: list[tuple[str, Finding]] = []
    if enlarged:
        phrase = _phrase(rng, KINDS["cardiomegaly"], "", "")
        findings.append(
            (
                "cardiomegaly",
                Finding(phrase=phrase, boxes=(canvas.heart_box,), disease="Cardiomegaly", region="cardiac silhouette"),
            )
        )
    draw: dict[str, Callable[[str, float], object]] = {
        "opacity": canvas.opacity,
        "nodule": canvas.nodule,
        "effusion": canvas.effusion,
        "pneumothorax": canvas.pneumothorax,
        "device": canvas.device,
    }
    # An effusion fills what a pneumothorax empties: one lung has at most one of them.
    taken: dict[str, str] = {}
    for name in present:
        if name == "cardiomegaly":
            continue
        free = [s for s in ("left", "right") if name not in {"effusion", "pneumothorax"} or s not in taken]
        if not free:
            continue
        side, relative = str(rng.choice(free)), float(rng.random())
        if name in {"effusion", "pneumothorax"}:
            taken[side] = name
        box = draw[name](side, relative)
        region = f"{side} apical zone" if name == "pneumothorax" else f"{side} lung"
        phrase = _phrase(rng, KINDS[name], side, _size_word(relative))
        findings.append((name, Finding(phrase=phrase, boxes=(box,), disease=KINDS[name].disease, region=region)))
    return canvas, findings


def _denials(rng: Rng, absent: list[str]) -> list[Finding]:
    """Every absent kind is denied with probability .7, the heart always spoken of."""
    return [
        Finding(
            phrase=str(rng.choice(KINDS[name].denied)),
            disease="No Finding",
            region="cardiac silhouette" if name == "cardiomegaly" else "whole lung",
        )
        for name in absent
        if name == "cardiomegaly" or rng.random() < 0.7
    ]


def make_phantom(index: int, seed: int, split: Split, folder: Path) -> Study:
    """Draw phantom ``index`` of ``split``, write its PNG below ``folder`` and return its study."""
    rng = np.random.default_rng([seed, ("train", "val", "test").index(split), index])
    canvas, positives = _draw(rng)
    absent = [name for name in KINDS if name not in {kind for kind, _ in positives}]
    findings = [finding for _, finding in positives] + _denials(rng, absent)
    name = f"phantom-{split}-{index:06d}"
    path = (folder / f"{name}.png").resolve()
    Image.fromarray(canvas.pixels()).save(path, compress_level=1)
    return Study(
        id=name,
        patient_id=name,
        image=path,
        width=SIZE,
        height=SIZE,
        view="PA",
        report=" ".join(finding.phrase for finding in findings),
        findings=tuple(findings),
        split=split,
        source="phantom",
    )


def generate_phantoms(train: int, test: int, seed: int, folder: Path, workers: int = 2) -> list[Study]:
    """Draw ``train`` + ``test`` phantoms into ``folder``; the same arguments give the same pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    # "spawn" because the caller may hold Ray's threads, which a fork would copy half-way.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        parts: list[tuple[Split, int]] = [("train", train), ("test", test)]
        return [
            study
            for split, count in parts
            for study in pool.map(
                partial(make_phantom, seed=seed, split=split, folder=folder), range(count), chunksize=64
            )
        ]
