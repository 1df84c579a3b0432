"""Prompts, the response form, and the one place where an answer is read.

What lives here: what the model is asked (four tasks), how the reference response is written, ``parse_answer`` and
``parse_joint``. What does not: rewards (they get the parsed answer), tokenisation (model/).

Response form (arXiv 2504.18453 §3.2): ``<think>…</think><answer>…</answer>``; boxes in the answer as
``[x1, y1, x2, y2]`` separated by ``, ``; ``none`` for no finding. JOINT answers a report, boxes behind the words that
they belong to: ``There is a nodule. [612, 300, 660, 350] The heart is normal.``
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from boxmed_ray.data.knowledge import DISEASES, REGIONS
from boxmed_ray.data.study import Box, Finding

Coordinates = Literal["permille", "pixel", "unit"]


class Task(StrEnum):
    """What one prompt asks for."""

    GROUND = "ground"
    CONCEPTS = "concepts"
    REPORT = "report"
    JOINT = "joint"


INSTRUCTIONS: dict[Task, str] = {
    Task.GROUND: "Locate in this chest X-ray: {phrase}",
    Task.CONCEPTS: "Reason step by step about the findings in this chest X-ray.",
    Task.REPORT: "Write the findings of this chest X-ray.",
    Task.JOINT: "Write the findings of this chest X-ray with their boxes.",
}

OPEN_THINK, CLOSE_THINK = "<think>", "</think>"
OPEN_ANSWER, CLOSE_ANSWER = "<answer>", "</answer>"
NONE = "none"


def instruction(task: Task, phrase: str | None = None) -> str:
    """The words of the user turn. ``phrase`` is required for GROUND and refused elsewhere."""
    if (task is Task.GROUND) != (phrase is not None):
        raise ValueError(f"task {task.value!r} {'needs' if task is Task.GROUND else 'takes no'} phrase")
    return INSTRUCTIONS[task].format(phrase=phrase)


def chat(task: Task, phrase: str | None = None) -> list[dict[str, Any]]:
    """One user turn with the image first, in the form ``processor.apply_chat_template`` takes."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": instruction(task, phrase)}]}]


def _number(value: float, extent: int, coordinates: Coordinates) -> str:
    if coordinates == "permille":
        return str(min(1000, max(0, round(1000 * value / extent))))
    if coordinates == "pixel":
        return str(min(extent, max(0, round(value))))
    return f"{min(1.0, max(0.0, value / extent)):.3f}"


def format_boxes(boxes: Sequence[Box], width: int, height: int, coordinates: Coordinates = "permille") -> str:
    """Boxes in pixels of a ``width`` x ``height`` image as the text of an answer; ``none`` when empty."""
    parts = (
        ", ".join(
            _number(value, extent, coordinates)
            for value, extent in zip(box, (width, height, width, height), strict=True)
        )
        for box in boxes
    )
    return ", ".join(f"[{part}]" for part in parts) or NONE


def format_response(think: str, answer: str) -> str:
    """The whole response form."""
    return f"{OPEN_THINK}{think}{CLOSE_THINK}{OPEN_ANSWER}{answer}{CLOSE_ANSWER}"


def chain(finding: Finding) -> str:
    """One reasoning chain, Findings → Disease → Anatomical region; unknown links are left out."""
    links = [finding.phrase.rstrip(". "), finding.disease, finding.region]
    return " -> ".join(link for link in links if link)


def ground_response(finding: Finding, width: int, height: int, coordinates: Coordinates = "permille") -> str:
    """Reference response to GROUND: the finding's concepts, then its boxes (or ``none``)."""
    concepts = " -> ".join(link for link in (finding.disease, finding.region) if link)
    return format_response(concepts or NONE, format_boxes(finding.boxes, width, height, coordinates))


def concepts_response(findings: Sequence[Finding]) -> str:
    """Reference response to CONCEPTS: every chain in the thinking, the diseases in the answer."""
    think = "; ".join(chain(finding) for finding in findings) or NONE
    diseases = dict.fromkeys(finding.disease for finding in findings if finding.disease)
    return format_response(think, ", ".join(d for d in diseases if d) or NONE)


def joint_response(
    report: str, findings: Sequence[Finding], width: int, height: int, coordinates: Coordinates = "permille"
) -> str:
    """Reference response to JOINT: the report with the boxes of each finding behind its phrase.

    A finding whose phrase the report does not have word for word comes after the report, phrase and boxes.
    """
    for finding in findings:
        boxes = format_boxes(finding.boxes, width, height, coordinates)
        before, phrase, after = report.rpartition(finding.phrase)
        report = f"{before}{phrase} {boxes}{after}" if phrase else f"{report} {finding.phrase} {boxes}"
    concepts = (" -> ".join(link for link in (f.disease, f.region) if link) for f in findings)
    return format_response("; ".join(filter(None, concepts)) or NONE, report)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read.

    ``boxes`` is None when the answer cannot be read as boxes (malformed), empty for an explicit
    ``none``; otherwise pixels of the image the width and height of which were given to the parser.
    ``well_formed``: the whole response matches the form, which format rewards ask.
    """

    boxes: tuple[Box, ...] | None
    well_formed: bool
    think: str

    @property
    def malformed(self) -> bool:
        """True when there is neither a box list nor an explicit none."""
        return self.boxes is None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A response to CONCEPTS, read.

    ``links``: (disease, region) of every chain in the thinking, None for what a chain leaves out. ``diseases``: those
    of the answer. Names that are in neither bank are left out. ``well_formed``: the response matches the form.
    """

    links: frozenset[tuple[str | None, str | None]]
    diseases: frozenset[str]
    well_formed: bool


_NUMBER = r"[0-9]{1,5}(?:\.[0-9]{1,6})?"
_BOX = rf"\[{_NUMBER}(?:, {_NUMBER}){{3}}\]"
_RESPONSE = re.compile(r"<think>(?P<think>.*?)</think><answer>(?P<answer>.*?)</answer>", re.DOTALL)
_BOXES = re.compile(rf"{_BOX}(?:, {_BOX})*")
_BRACKETS = re.compile(r"\[[^\[\]]*\]")
_BRACKETED = re.compile(r"(?<!\s)\s*\[[^\[\]]*\](?:,\s*\[[^\[\]]*\])*")
_TAG = re.compile(r"</?(?:think|answer)>")
_TAGS = [OPEN_THINK, CLOSE_THINK, OPEN_ANSWER, CLOSE_ANSWER]
MAX_BOXES = 64
"""More boxes than this in one answer is malformed: no chest X-ray needs them, and matching is cubic."""
_MAX_CHARACTERS = 20_000


def parse_answer(
    text: str, width: int, height: int, coordinates: Coordinates = "permille", side: int | None = None
) -> Answer:
    """Read a grounding response.

    Args:
        text: the decoded response, without the end-of-turn token.
        width: pixels of the image in which boxes are wanted.
        height: the same.
        coordinates: what the numbers in the text mean.
        side: of the square the model sees, whose pixels "pixel" coordinates count; None where that is the image.

    Returns:
        The Answer. Never raises: whatever a model writes is an answer or malformed.
    """
    match = _in_form(text)
    if match is None:
        return Answer(None, False, "")
    answer = match["answer"].strip()
    boxes = () if answer == NONE else _read_boxes(answer, width, height, coordinates, side)
    return Answer(boxes, boxes is not None, match["think"].strip())


def _in_form(text: str) -> re.Match[str] | None:
    """Thinking and answer of a response of the form, which has each of its four tags once."""
    if len(text) > _MAX_CHARACTERS or _TAG.findall(text) != _TAGS:  # else lazy matching tries every pair of tags
        return None
    return _RESPONSE.fullmatch(text.strip())


def parse_reasoning(text: str) -> Reasoning:
    """Read a response to CONCEPTS, as ``concepts_response`` writes it. Never raises; malformed says nothing."""
    match = _in_form(text)
    if match is None:
        return Reasoning(frozenset(), frozenset(), False)
    links = {_link(part) for part in match["think"].split(";")}
    named = frozenset(name for part in match["answer"].split(",") if (name := part.strip()) in DISEASES)
    return Reasoning(frozenset(links - {(None, None)}), named, True)


def _link(text: str) -> tuple[str | None, str | None]:
    names = [part.strip() for part in text.split("->")]
    disease = next((name for name in names[1:] if name in DISEASES), None)
    return disease, next((name for name in names[1:] if name in REGIONS), None)


def parse_joint(
    text: str, width: int, height: int, coordinates: Coordinates = "permille", side: int | None = None
) -> Answer:
    """Read a response to JOINT; arguments as ``parse_answer``.

    Returns:
        All boxes of the report in the order they are said, empty where it has none; malformed where the response is
        not of the form, a bracket holds anything but a box, or nothing is said beside boxes. Never raises.
    """
    match = _in_form(text)
    if match is None:
        return Answer(None, False, "")
    answer = match["answer"]
    report, found = without_boxes(answer), _BRACKETS.findall(answer)
    boxes = _read_boxes(", ".join(found), width, height, coordinates, side) if found else ()
    if not report or "[" in report or "]" in report:
        boxes = None
    return Answer(boxes, boxes is not None, match["think"].strip())


def without_boxes(text: str) -> str:
    """The text without anything in square brackets: the report of a response to JOINT, whatever its form."""
    return _BRACKETED.sub("", text[:_MAX_CHARACTERS]).strip()


def _read_boxes(
    answer: str, width: int, height: int, coordinates: Coordinates, side: int | None
) -> tuple[Box, ...] | None:
    """The boxes of an answer; None unless every one is upright and inside the image."""
    if _BOXES.fullmatch(answer) is None:
        return None
    numbers = [float(n) for n in re.findall(_NUMBER, answer)]
    if len(numbers) > 4 * MAX_BOXES:
        return None
    boxes = tuple(_to_pixels(numbers[i : i + 4], width, height, coordinates, side) for i in range(0, len(numbers), 4))
    if any(box.x2 <= box.x1 or box.y2 <= box.y1 for box in boxes):
        return None
    if any(box.x2 > width * 1.001 or box.y2 > height * 1.001 for box in boxes):
        return None
    return boxes


def _to_pixels(numbers: Sequence[float], width: int, height: int, coordinates: Coordinates, side: int | None) -> Box:
    factors = (width, height, width, height)
    if coordinates == "pixel":
        return Box(*numbers) if side is None else Box(*(n * f / side for n, f in zip(numbers, factors, strict=True)))
    scale = 1000 if coordinates == "permille" else 1
    return Box(*(n * f / scale for n, f in zip(numbers, factors, strict=True)))
