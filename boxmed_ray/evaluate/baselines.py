"""What stands beside a model: a constant box per label, a box at random, and what people answer.

What lives here: fitting the constant box on training boxes, answering with any of these, and readers of the same image
against each other. What does not: the metrics (grounding.py), which score a baseline like any model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from boxmed_ray.data.concepts import label_of
from boxmed_ray.data.study import Box, Study
from boxmed_ray.evaluate.grounding import GroundingRecord
from rewards.box import pairwise_iou
from rewards.sample import BoxT

_CANDIDATES = 400
_STARTS = 3
_STEPS = (0.04, 0.02, 0.01, 0.005, 0.0025, 0.001)
_ROUNDS = 100


def normalise(box: BoxT, width: float, height: float) -> BoxT:
    """Pixels to shares of the image, which makes boxes of different images comparable."""
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def fit_constant_boxes(training: Iterable[tuple[str, BoxT]], seed: int = 0) -> dict[str, BoxT]:
    """For each label the box with the highest mean IoU over its training boxes.

    Args:
        training: (label, box in shares of the image) of the TRAINING split, one entry a box.
        seed: chooses the candidates where a label has more than ``_CANDIDATES`` boxes.

    Returns:
        Label → box in shares of the image.
    """
    by_label: dict[str, list[BoxT]] = defaultdict(list)
    for label, box in training:
        by_label[label].append(box)
    return {label: _best_box(np.array(by_label[label]), seed) for label in sorted(by_label)}


def answer_with_constant_box(records: Sequence[GroundingRecord], boxes: Mapping[str, BoxT]) -> list[GroundingRecord]:
    """The same prompts, answered with the label's box; a label without one is answered ``none``.

    The constant box is the same at any temperature, so its one sample is its greedy answer.
    """
    return [_answer(record, boxes.get(record.label)) for record in records]


def answer_with_random_box(
    records: Sequence[GroundingRecord], training: Sequence[tuple[str, BoxT]], seed: int = 0
) -> list[GroundingRecord]:
    """The same prompts, each answered with the size of some training box, of any label, at a random place.

    Args:
        records: whose prompts are answered.
        training: as for ``fit_constant_boxes``; at least one.
        seed: of sizes and places.
    """
    rng = np.random.default_rng(seed)
    boxes = np.array([box for _, box in training])
    sizes = (boxes[:, 2:] - boxes[:, :2])[rng.integers(len(boxes), size=len(records))]
    corners = rng.uniform(0, 1, sizes.shape) * (1 - sizes)
    drawn = np.concatenate([corners, corners + sizes], axis=1).tolist()
    return [_answer(record, (b[0], b[1], b[2], b[3])) for record, b in zip(records, drawn, strict=True)]


def answer_as_reader(
    records: Sequence[GroundingRecord], readings: Mapping[str, Mapping[str, Sequence[BoxT]]]
) -> list[GroundingRecord | None]:
    """The same prompts, answered as a second person read them; None for images that this person did not read.

    Args:
        records: whose prompts are answered.
        readings: study → phrase → boxes in pixels; what a reader of a study does not have is answered ``none``.
    """
    answers: list[GroundingRecord | None] = []
    for record in records:
        reading = readings.get(record.study_id)
        if reading is None:
            answers.append(None)
            continue
        boxes = tuple(reading.get(record.phrase, ()))
        answers.append(
            replace(
                record, greedy=boxes, well_formed=True, sampled=(boxes,), sampled_well_formed=(True,), greedy_text=""
            )
        )
    return answers


def readers_against_each_other(studies: Iterable[Study]) -> list[GroundingRecord]:
    """Each reader's boxes of a finding as the truth for each other reader of the image, both ways.

    A finding that one of two readers did not see counts once, with IoU 0: the other's boxes are not there.
    """
    return [
        GroundingRecord(
            prompt_id=f"{study.id}/{i}/{j}/{finding.phrase}",
            study_id=study.id,
            label=label_of(finding),
            width=study.width,
            height=study.height,
            target=_corners(truth),
            greedy=_corners(other),
            well_formed=True,
            sampled=(_corners(other),),
            sampled_well_formed=(True,),
        )
        for study in studies
        for finding in study.findings
        for i, truth in enumerate(finding.readings)
        for j, other in enumerate(finding.readings)
        if i != j and truth
    ]


def _corners(boxes: Iterable[Box]) -> tuple[BoxT, ...]:
    return tuple((box.x1, box.y1, box.x2, box.y2) for box in boxes)


def _answer(record: GroundingRecord, box: BoxT | None) -> GroundingRecord:
    w, h = record.width, record.height
    answer: tuple[BoxT, ...] = () if box is None else ((box[0] * w, box[1] * h, box[2] * w, box[3] * h),)
    return replace(
        record, greedy=answer, well_formed=True, sampled=(answer,), sampled_well_formed=(True,), greedy_text=""
    )


def _best_box(boxes: NDArray[np.float64], seed: int) -> BoxT:
    """Best of the boxes themselves, their mean and median, then moved side by side while that helps."""
    chosen = np.random.default_rng(seed).permutation(len(boxes))[:_CANDIDATES]
    candidates = np.concatenate([boxes[chosen], boxes.mean(0, keepdims=True), np.median(boxes, 0, keepdims=True)])
    order = np.argsort(-pairwise_iou(candidates, boxes).mean(1), kind="stable")
    refined = [_refine(candidates[i], boxes) for i in order[:_STARTS]]
    best, _ = max(refined, key=lambda pair: pair[1])
    return float(best[0]), float(best[1]), float(best[2]), float(best[3])


def _refine(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Pattern search over single sides, whole shifts and growth, with ever smaller steps."""
    across = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0], [1, 0, -1, 0]])
    moves = np.concatenate([across, -across, np.roll(across, 1, axis=1), -np.roll(across, 1, axis=1)])
    value = float(pairwise_iou(box[None], boxes).mean())
    for step in _STEPS:
        for _ in range(_ROUNDS):
            tried = np.clip(box + step * moves, 0, 1)
            means = pairwise_iou(tried, boxes).mean(1)
            best = int(means.argmax())
            if means[best] <= value + 1e-12:
                break
            box, value = tried[best], float(means[best])
    return box, value
