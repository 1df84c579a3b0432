"""COCO's mean average precision of a corpus of answers.

What lives here: the corpus in COCO's form; the package ``faster-coco-eval`` (Apache-2.0) counts. What does not: metrics
of one answer, RadVLM's AP among them (box.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewards.box import MAX_BOXES, finite_boxes
from rewards.sample import BoxT


@dataclass(frozen=True, slots=True)
class CocoMap:
    """mAP in [0, 1]: the mean over IoU thresholds .5, .55, … .95, and at two of them."""

    mean: float
    at_50: float
    at_75: float


def coco_map(
    predicted: Sequence[Sequence[BoxT] | None], target: Sequence[Sequence[BoxT]], labels: Sequence[str] | None = None
) -> CocoMap:
    """COCO's mAP, averaged over the labels that have a target.

    Answers have no confidence: all boxes get 1, and COCO takes equals in the order they are said.

    Args:
        predicted: boxes of each prompt's answer; None (malformed) or more than MAX_BOXES count as none.
        target: true boxes of each prompt.
        labels: what each prompt is about; None for one label.

    Raises:
        ValueError: as many predictions, targets and labels as prompts are needed, and one target at least.
    """
    labels = labels if labels is not None else [""] * len(target)
    if not len(predicted) == len(target) == len(labels):
        raise ValueError(f"{len(predicted)} answers, {len(target)} targets and {len(labels)} labels; they must pair")
    if not any(target):
        raise ValueError("no prompt has a target box; mAP is undefined")
    names = sorted(set(labels))
    categories = [names.index(label) + 1 for label in labels]
    said = [boxes if boxes is not None and len(boxes) <= MAX_BOXES else () for boxes in predicted]
    return _evaluate(_rows(target, categories), _rows(said, categories), len(target), len(names))


def _rows(boxes: Sequence[Sequence[BoxT]], categories: Sequence[int]) -> list[dict[str, Any]]:
    """Annotations: one image a prompt, boxes as x, y, width, height; boxes without area stay, and match nothing."""
    rows: list[dict[str, Any]] = []
    for image, (of_prompt, category) in enumerate(zip(boxes, categories, strict=True), start=1):
        for x1, y1, x2, y2 in finite_boxes(of_prompt).tolist():
            width, height = max(0.0, x2 - x1), max(0.0, y2 - y1)
            rows.append({
                "id": len(rows) + 1, "image_id": image, "category_id": category, "iscrowd": 0, "score": 1.0,
                "bbox": [x1, y1, width, height], "area": width * height,
            })  # fmt: skip
    return rows


def _evaluate(truth: list[dict[str, Any]], said: list[dict[str, Any]], images: int, categories: int) -> CocoMap:
    from faster_coco_eval import COCO, COCOeval_faster

    if not said:
        return CocoMap(0.0, 0.0, 0.0)
    known = {
        "images": [{"id": i + 1} for i in range(images)],
        "categories": [{"id": i + 1, "name": str(i)} for i in range(categories)],
    }
    gold = COCO(known | {"annotations": truth})
    evaluation = COCOeval_faster(gold, gold.loadRes(said), iouType="bbox")
    evaluation.run()
    mean, at_50, at_75 = (float(value) for value in evaluation.stats[:3])
    return CocoMap(mean, at_50, at_75)
