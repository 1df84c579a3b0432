"""Readers' verdicts on a served model, made into studies for the next supervised or RL round.

What lives here: the latest verdict on each sentence, and one study for each image. What does not: taking verdicts
(serve/feedback.py, which says what a line holds).

A sentence that was right stays with its boxes; one that was corrected takes the reader's words and boxes; one that was
wrong and not corrected, or not to be told, is left out and counted. Boxes come in pixels of the image that was sent and
leave in those of the image that was kept.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from boxmed_ray.data.images import image_size
from boxmed_ray.data.study import Box, DataError, Finding, Study
from rewards.categories import Status
from rewards.text.labels import label

_DIGEST: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(slots=True)
class FromFeedback:
    """Studies, and how many verdicts were left out, by reason."""

    studies: list[Study] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_feedback(folder: Path) -> FromFeedback:
    """Studies of the verdicts below ``folder``.

    Args:
        folder: what `boxmed serve --feedback FOLDER --feedback-images` keeps.

    Raises:
        DataError: there is no feedback, or a line of it is not one; the message names the line.
    """
    path = folder / "feedback.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the folder of `boxmed serve --feedback FOLDER`")
    latest: dict[tuple[str, int], dict[str, Any]] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, text in enumerate(lines, 1):
            line = _line(text, f"{path}:{number}")
            latest[line["report"], line["sentence"]] = line  # a later verdict on a sentence replaces an earlier one
    result = FromFeedback()
    by_image: dict[str, list[dict[str, Any]]] = {}
    for line in latest.values():
        if reason := _left_out(line, folder):
            result.left_out[reason] += 1
        else:
            by_image.setdefault(line["image"], []).append(line)
    for digest, said in sorted(by_image.items()):
        result.studies.append(_study(folder, digest, said))
    return result


def _line(text: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
        missing = {"report", "sentence", "text", "verdict"} - line.keys()
    except (json.JSONDecodeError, AttributeError) as error:
        raise DataError(f"{where}: not a verdict in JSON; remove the line") from error
    if missing:
        raise DataError(f"{where}: lacks {', '.join(sorted(missing))}; remove the line")
    return dict(line)


def _left_out(line: Mapping[str, Any], folder: Path) -> str | None:
    if line["verdict"] == "unsure":
        return "not to be told"
    if line["verdict"] == "wrong" and not line.get("corrected"):
        return "wrong, and not corrected"
    # Verdicts come from whoever may send them: a digest that is none could be a path.
    if not _DIGEST.fullmatch(str(line.get("image"))) or not (folder / "images" / f"{line['image']}.png").is_file():
        return "its image was not kept (--feedback-images)"
    return None


def _study(folder: Path, digest: str, said: list[dict[str, Any]]) -> Study:
    image = folder / "images" / f"{digest}.png"
    width, height = image_size(image)
    # Several reports may have been written about one image: words that two of them share are one finding.
    findings = {
        finding.phrase: finding
        for finding in (_finding(line, width, height) for line in sorted(said, key=lambda line: line["sentence"]))
    }
    return Study(
        id=f"feedback-{digest}",
        patient_id=f"feedback-{digest}",  # nobody is named, so each image is somebody of its own
        image=image.resolve(),
        width=width,
        height=height,
        report=" ".join(findings),
        findings=tuple(findings.values()),
        split="train",
        source="feedback",
    )


def _finding(line: Mapping[str, Any], width: int, height: int) -> Finding:
    phrase = str(line.get("corrected") or line["text"])
    boxes = []
    for x1, y1, x2, y2 in line.get("boxes") or ():
        across, down = width / line["width"], height / line["height"]
        boxes.append(Box(x1 * across, y1 * down, x2 * across, y2 * down))
    named = [name for name, status in label(phrase).items() if status is Status.POSITIVE]
    return Finding(phrase=phrase, boxes=tuple(boxes), disease=named[0] if len(named) == 1 else None)
