"""What may be wrong with studies that can be read: each problem a line with study, what and remedy.

What lives here: checks of one study, and checks that need all of them. What does not: what readers refuse (load.py) or
whether two hashes are of one picture (perceptual_hash.py).

An error makes figures or training worth nothing, or contradicts itself; a warning asks somebody to look.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from boxmed_ray.data.images import decode_image, read_bytes
from boxmed_ray.data.perceptual_hash import close_pairs, perceptual_hash
from boxmed_ray.data.readers import Item, Located, SkippedStudy
from boxmed_ray.data.readers.mimic_boxes import SPLIT_KEY
from boxmed_ray.data.study import DataError, Finding, Study
from rewards.categories import NO_FINDING, Status
from rewards.text.labels import label

TINY_SIDE: Final = 0.01
"""Share of the image's side under which a box is tiny: a pixel of what a small model sees."""
_MIDDLE: Final = 0.05
"""Share of the width by which a box must be past the middle to lie on a side."""
_MIMIC: Final = frozenset({"mimic-cxr", "ms-cxr", "latte-cxr", "chest-imagenome"})
_SIDE: Final = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_BOTH: Final = re.compile(r"\bbilateral|\bboth\b", re.IGNORECASE)
_CROSSES: Final = re.compile(
    r"\b(?:picc|lines?|catheters?|tubes?|leads?|tip|shift\w*|deviat\w*|wires?)\b", re.IGNORECASE
)
"""What enters on one side and ends on the other, or moves there."""
_FRONTAL: Final = re.compile(r"(?:AP|PA)\b|FRONTAL|$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of a check."""

    level: Literal["error", "warning"]
    code: str
    study: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the checks across studies keep of one: some hundred bytes."""

    id: str
    source: str
    split: str
    patient: tuple[str, str]
    hash: str
    has_report: bool


def check_items(items: Iterable[Item], on_study: Callable[[int], None] = lambda count: None) -> Iterator[Problem]:
    """Check studies of one data set or several, one after the other; of each only a summary is kept.

    Args:
        items: of all readers, chained. Images are decoded, but for those whose manifest tells their perceptual hash:
            of these the file is compared with its digest.
        on_study: called with the number of studies checked.
    """
    seen: list[_Seen] = []
    for item in items:
        if isinstance(item, SkippedStudy):
            if not item.by_rule:
                yield Problem("error", "unusable", item.id, item.reason, "else leave the study out")
            continue
        yield from check_study(item.study)
        picture = _picture_hash(item)
        if isinstance(picture, Problem):
            yield picture
        else:
            seen.append(_summary(item.study, picture))
        on_study(len(seen))
    yield from _ids(seen)
    yield from _split_patients(seen)
    yield from _same_pictures(seen)
    yield from _missing_reports(seen)


def check_study(study: Study) -> Iterator[Problem]:
    """What one study tells without its pixels."""
    for finding in study.findings:
        yield from _boxes(study, finding)
        yield from _sides(study, finding)
        yield from _labels(study, finding)
    yield from _report(study)


def _boxes(study: Study, finding: Finding) -> Iterator[Problem]:
    for box in finding.boxes:
        sides = (box.x2 - box.x1) / study.width, (box.y2 - box.y1) / study.height
        if min(sides) < TINY_SIDE:
            what = f"box {tuple(box)} of {finding.phrase!r} has a side under {TINY_SIDE:.0%} of the image's"
            yield Problem("warning", "tiny-box", study.id, what, "look whether it was drawn by mistake, and remove it")


def _sides(study: Study, finding: Finding) -> Iterator[Problem]:
    """The side in the words against that of the region, and that of the boxes in a frontal view."""
    sides = {side.lower() for side in _SIDE.findall(finding.phrase)}
    if len(sides) != 1 or _BOTH.search(finding.phrase):
        return
    (side,) = sides
    other = "right" if side == "left" else "left"
    remedy = "correct the phrase, the box or the region, or see whether the image is mirrored"
    if finding.region is not None and finding.region.startswith(other):
        what = f"phrase {finding.phrase!r} says {side}, its region is {finding.region!r}"
        yield Problem("error", "laterality", study.id, what, remedy)
    if not finding.boxes or _CROSSES.search(finding.phrase) or not _FRONTAL.match(study.view or ""):
        return
    past = _MIDDLE * study.width
    middle = study.width / 2
    if all(b.x2 < middle - past if side == "left" else b.x1 > middle + past for b in finding.boxes):
        what = f"phrase {finding.phrase!r} says {side}, its boxes lie on the patient's {other}"
        yield Problem("error", "laterality", study.id, what, remedy)


def _labels(study: Study, finding: Finding) -> Iterator[Problem]:
    remedy = "correct the finding's disease, its boxes or its phrase"
    if finding.disease == NO_FINDING and finding.boxes:
        what = f"{finding.phrase!r} is denied ({NO_FINDING}) and has a box"
        yield Problem("error", "label-conflict", study.id, what, remedy)
    elif finding.disease is not None and label(finding.phrase).get(finding.disease) is Status.NEGATIVE:
        what = f"{finding.phrase!r} reads as a denial of its disease, {finding.disease}"
        yield Problem("warning", "label-conflict", study.id, what, remedy)


def _report(study: Study) -> Iterator[Problem]:
    """An empty report, and one that denies what a box shows."""
    if study.report is None:
        return
    if not any(letter.isalpha() for letter in study.report):
        yield Problem("warning", "empty-report", study.id, f"report {study.report!r} says nothing", _REPORT_REMEDY)
        return
    said = label(study.report)
    shown = {finding.disease for finding in study.findings if finding.boxes and finding.disease != NO_FINDING}
    for disease in sorted(disease for disease in shown if disease and said.get(disease) is Status.NEGATIVE):
        what = f"the report denies {disease}, a finding with boxes asserts it"
        yield Problem("warning", "label-conflict", study.id, what, "see which is right, and correct the other")


_REPORT_REMEDY: Final = "restore the report, or leave the study out of training on reports"


def _picture_hash(item: Located) -> str | Problem:
    """The perceptual hash of the study's picture, or what is wrong with its file."""
    study = item.study
    try:
        data = read_bytes(study.image)
        if item.hashes is not None:
            if hashlib.sha256(data).hexdigest() == item.hashes.sha256:
                return item.hashes.perceptual_hash
            what = f"{study.image}: is not the file that the manifest was written for (SHA-256 differs)"
            return Problem("error", "changed-image", study.id, what, "restore the file, or build the data set again")
        image = decode_image(data, study.image)
    except DataError as error:
        return Problem("error", "unusable", study.id, str(error), "else leave the study out")
    if image.size != (study.width, study.height):
        what = f"{study.image}: is {image.width}x{image.height}, its study says {study.width}x{study.height}"
        return Problem("error", "unusable", study.id, what, "boxes need the true size: correct the study or the image")
    return perceptual_hash(image)


def _summary(study: Study, picture: str) -> _Seen:
    # Data sets on images of MIMIC-CXR have its patients; elsewhere the same number is somebody else.
    patients = SPLIT_KEY if study.source in _MIMIC else study.source
    has_report = study.report is not None
    return _Seen(study.id, study.source, study.split, (patients, study.patient_id), picture, has_report)


def _ids(seen: Iterable[_Seen]) -> Iterator[Problem]:
    """Two studies of one id in one data set; data sets on the same images may share theirs."""
    known: set[tuple[str, str]] = set()
    for study in seen:
        if (study.source, study.id) in known:
            what = f"an earlier study of {study.source} has its id too"
            yield Problem("error", "duplicate-id", study.id, what, "give each study an id of its own")
        known.add((study.source, study.id))


def _split_patients(seen: Iterable[_Seen]) -> Iterator[Problem]:
    first: dict[tuple[str, str], _Seen] = {}
    for study in seen:
        other = first.setdefault(study.patient, study)
        if other.split != study.split:
            what = f"its patient {study.patient[1]!r} is in split {study.split!r} of {study.source}, and " + (
                f"in {other.split!r} of {other.source} with study {other.id!r}"
            )
            remedy = "put all studies of a patient into one split, in every data set that is trained or tested on"
            yield Problem("error", "patient-in-two-splits", study.id, what, remedy)


def _same_pictures(seen: list[_Seen]) -> Iterator[Problem]:
    """One picture twice. In two data sets on the same images, that is no news unless the splits differ."""
    pairs = close_pairs([study.hash for study in seen])
    for later, group in groupby(pairs, key=lambda pair: pair[1]):
        study = seen[later]
        others = [seen[earlier] for earlier, _ in group]
        apart = [first for first in others if first.split != study.split]
        # A line for each study, however often its picture is there.
        for first in [*apart, *(first for first in others if not _same_study(first, study))][:1]:
            where = f"({first.source}, split {first.split!r}) in split {study.split!r}"
            what = f"shows the picture of study {first.id!r} {where}"
            remedy = "keep the one of the held-out split" if apart else "keep one, unless both are meant"
            yield Problem("error" if apart else "warning", "duplicate-image", study.id, what, remedy)


def _same_study(first: _Seen, second: _Seen) -> bool:
    return first.source != second.source and first.patient == second.patient


def _missing_reports(seen: Iterable[_Seen]) -> Iterator[Problem]:
    """Studies without a report, in data sets that have reports."""
    with_reports = {study.source for study in seen if study.has_report}
    for study in seen:
        if study.source in with_reports and not study.has_report:
            yield Problem(
                "warning", "empty-report", study.id, "has no report, others of its data set do", _REPORT_REMEDY
            )
