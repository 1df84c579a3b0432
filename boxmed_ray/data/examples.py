"""Study -> training examples: what the model is asked about an image and what it should answer.

What lives here: which findings are asked about, how MCL's tasks are mixed, and the second reader's
noise on boxes. What does not: the words of prompts and answers (prompts.py), what SVR asks (mixture.py), tokens
(model/).

Everything is a pure function of studies, config and seed. Example ``i`` does not depend on how many
are asked for, so a stage resumes at any position by slicing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from boxmed_ray.config import MCLConfig
from boxmed_ray.data.concept_map import shipped
from boxmed_ray.data.deck import Deck, require
from boxmed_ray.data.prompts import (
    Answer,
    Coordinates,
    Task,
    concepts_response,
    ground_response,
    instruction,
    joint_response,
    parse_answer,
)
from boxmed_ray.data.study import Box, Finding, Study
from rewards.categories import NO_FINDING

_MAX_SHIFT: Final = 0.4
"""A noisy side moves by at most this share of the side length: the two sides of a box never meet."""


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt about one image with its reference response.

    ``boxes`` are the targets of a GROUND or JOINT example in pixels of the stored image: exactly as the data
    has them, whatever noise ``response`` was written with. Empty means that there is nothing to find.
    """

    id: str
    task: Task
    phrase: str | None
    prompt: str
    response: str
    study: Study
    boxes: tuple[Box, ...] = ()


def is_denied(finding: Finding) -> bool:
    """Whether a finding says that something is absent, as "No pneumothorax." does."""
    return not finding.boxes and finding.disease == NO_FINDING


def grounded_findings(study: Study) -> list[Finding]:
    """Findings with boxes, one per phrase: boxes of one phrase are the answer to one prompt."""
    merged: dict[str, Finding] = {}
    for finding in study.findings:
        if not finding.boxes:
            continue
        first = merged.get(finding.phrase)
        if first is None:
            merged[finding.phrase] = finding
        else:
            region = first.region if first.region == finding.region else None
            boxes = tuple(dict.fromkeys(first.boxes + finding.boxes))
            update = {"boxes": boxes, "region": region}
            merged[finding.phrase] = first.model_copy(update=update)
    return list(merged.values())


def denied_findings(study: Study) -> list[Finding]:
    """What a study denies, one per phrase; asked where it is, the answer is ``none``."""
    return list({finding.phrase: finding for finding in study.findings if is_denied(finding)}.values())


def stated_findings(study: Study) -> list[Finding]:
    """The findings a chain of concepts is written for: what is there or, in a clear image, what is not.

    Never both: "No Finding" beside a disease in one answer would contradict the bank.
    """
    return [finding for finding in study.findings if not is_denied(finding)] or denied_findings(study)


def jitter_box(box: Box, width: int, height: int, spread: float, rng: random.Random, margin: float = 0.0) -> Box:
    """The box as a second reader would draw it.

    Each side moves by a normal deviate of standard deviation ``spread`` times the box's width or
    height, at most 0.4 of it, around a place ``margin`` times that length further out (many readers
    draw around a finding rather than along it), and stays in the ``width`` x ``height`` image.
    """

    def moved(value: float, side: float, extent: int, outward: int) -> float:
        shift = max(-_MAX_SHIFT, min(_MAX_SHIFT, rng.gauss(0.0, spread))) + outward * margin
        return max(0.0, min(float(extent), value + shift * side))

    across, down = box.x2 - box.x1, box.y2 - box.y1
    left, top = moved(box.x1, across, width, -1), moved(box.y1, down, height, -1)
    return Box(left, top, moved(box.x2, across, width, 1), moved(box.y2, down, height, 1))


def ground_example(
    study: Study, finding: Finding, coordinates: Coordinates = "permille", side: int | None = None
) -> Example:
    """The GROUND example of one finding; a finding without boxes is answered ``none``.

    Args:
        study: whose image is asked about.
        finding: what is asked for.
        coordinates: what the numbers in the response mean.
        side: of the square the model sees, whose pixels "pixel" coordinates count: the model cannot
            know the stored size. Needed for those only.
    """
    width, height = _frame(study, coordinates, side)
    drawn = _in_frame(finding.boxes, study, width, height)
    return Example(
        id=f"{study.id}/{Task.GROUND}/{finding.phrase}",
        task=Task.GROUND,
        phrase=finding.phrase,
        prompt=instruction(Task.GROUND, finding.phrase),
        response=ground_response(finding.model_copy(update={"boxes": drawn}), width, height, coordinates),
        study=study,
        boxes=finding.boxes,
    )


def read_answer(text: str, study: Study, coordinates: Coordinates = "permille", side: int | None = None) -> Answer:
    """Read a response to GROUND: the inverse of ``ground_example``, boxes in pixels of the stored image."""
    return parse_answer(text, study.width, study.height, coordinates, side)


def all_ground_examples(
    studies: Sequence[Study], coordinates: Coordinates = "permille", side: int | None = None
) -> list[Example]:
    """Every finding that has boxes, once, in the order of the studies: what evaluation asks."""
    return [ground_example(s, f, coordinates, side) for s in studies for f in grounded_findings(s)]


def ground_prompts(
    studies: Sequence[Study],
    count: int,
    *,
    none_share: float,
    seed: int,
    coordinates: Coordinates = "permille",
    side: int | None = None,
) -> list[Example]:
    """``count`` grounding prompts for reinforcement, ``none_share`` of them about denied findings.

    Raises:
        DataError: no study has a finding with a box.
    """
    rng = random.Random(f"ground/{seed}")
    grounded = Deck([(s, f) for s in studies for f in grounded_findings(s)], f"ground/{seed}")
    denied = Deck([(s, f) for s in studies for f in denied_findings(s)], f"none/{seed}")
    require(grounded, "a finding with a box, which grounding needs")
    chosen = []
    for _ in range(count):
        wants_none = rng.random() < none_share
        chosen.append((denied if wants_none and denied else grounded).draw())
    return [ground_example(study, finding, coordinates, side) for study, finding in chosen]


def mcl_examples(
    studies: Sequence[Study],
    count: int,
    *,
    config: MCLConfig,
    seed: int,
    coordinates: Coordinates = "permille",
    side: int | None = None,
    none_share: float = 0.05,
) -> list[Example]:
    """``count`` examples of medical concept learning, in training order.

    ``config.report_share`` of them ask for plain reports and ``config.joint_share`` for reports with boxes. Of the rest
    ``config.grounding_share`` ask for boxes (of those ``none_share`` about a denied finding), the others for chains of
    concepts. A noisy box is drawn once per seed and stays the same over
    epochs: the noise is in the data, as a reader's is, and does not average out.

    Raises:
        DataError: the studies have nothing that the config asks for.
    """
    rng = random.Random(f"mcl/{seed}")
    grounded = Deck([(s, f) for s in studies for f in grounded_findings(s)], f"mcl-ground/{seed}")
    denied = Deck([(s, f) for s in studies for f in denied_findings(s)], f"mcl-none/{seed}")
    stated = Deck([s for s in studies if _has_concepts(s)], f"mcl-concepts/{seed}")
    reported = Deck([s for s in studies if s.report], f"mcl-report/{seed}")
    jointly = Deck(joint_studies(studies), f"mcl-joint/{seed}")
    if config.report_share > 0:
        require(reported, "a report; set mcl.report_share=0")
    if config.joint_share > 0:
        require(jointly, "a report and findings; set mcl.joint_share=0")
    # A stream of its own: runs without reports see the examples that they always saw.
    tasks = random.Random(f"mcl-tasks/{seed}")
    if config.grounding_share > 0:
        require(grounded, "a finding with a box; set mcl.grounding_share=0 to train on chains only")
    if config.grounding_share < 1:
        require(stated, "a finding or a report; set mcl.grounding_share=1 to train on boxes only")
    examples = []
    for _ in range(count):
        task = tasks.random()
        if task < config.report_share:
            examples.append(report_example(reported.draw()))
            continue
        if task < config.report_share + config.joint_share:
            examples.append(joint_example(jointly.draw(), coordinates, side))
            continue
        wants_ground, wants_none = rng.random() < config.grounding_share, rng.random() < none_share
        if not wants_ground:
            examples.append(_concepts_example(stated.draw()))
        elif wants_none and denied:
            examples.append(ground_example(*denied.draw(), coordinates, side))
        else:
            study, finding = grounded.draw()
            noisy = second_reading(study, finding, config, seed)
            examples.append(replace(ground_example(study, noisy, coordinates, side), boxes=finding.boxes))
    return examples


def report_examples(studies: Sequence[Study], count: int, *, seed: int) -> list[Example]:
    """``count`` examples of the REPORT task in training order; the response is the plain report.

    Raises:
        DataError: no study has a report.
    """
    deck = Deck([s for s in studies if s.report], f"report/{seed}")
    require(deck, "a report, which report prompts and the adapter stage need")
    return [report_example(deck.draw()) for _ in range(count)]


def report_example(study: Study) -> Example:
    """The REPORT example of one study, which must have a report."""
    if not study.report:
        raise ValueError(f"study {study.id!r} has no report")
    return Example(f"{study.id}/{Task.REPORT}", Task.REPORT, None, instruction(Task.REPORT), study.report, study)


def joint_studies(studies: Sequence[Study]) -> list[Study]:
    """Studies with a report whose findings are on record: without those nobody knows that a box is missing."""
    return [study for study in studies if study.report and study.findings]


def joint_example(study: Study, coordinates: Coordinates = "permille", side: int | None = None) -> Example:
    """The JOINT example of one study, which must have a report; arguments as ``ground_example``."""
    if not study.report:
        raise ValueError(f"study {study.id!r} has no report")
    width, height = _frame(study, coordinates, side)
    findings = grounded_findings(study)
    drawn = [f.model_copy(update={"boxes": _in_frame(f.boxes, study, width, height)}) for f in findings]
    return Example(
        id=f"{study.id}/{Task.JOINT}",
        task=Task.JOINT,
        phrase=None,
        prompt=instruction(Task.JOINT),
        response=joint_response(study.report, drawn, width, height, coordinates),
        study=study,
        boxes=tuple(box for finding in findings for box in finding.boxes),
    )


def corpus(
    studies: Sequence[Study],
    coordinates: Coordinates = "permille",
    side: int | None = None,
    *,
    joint: bool = False,
) -> list[str]:
    """Every text the stages would show, once: what a tokenizer is trained on. ``joint``: reports with boxes too."""
    texts: dict[str, None] = {}
    for study in studies:
        asked = grounded_findings(study) + denied_findings(study)
        examples = [ground_example(study, finding, coordinates, side) for finding in asked]
        examples += concept_examples_of(study)
        if study.report:
            examples.append(report_example(study))
        if joint and study.report:
            examples.append(joint_example(study, coordinates, side))
        for example in examples:
            texts[example.prompt] = texts[example.response] = None
    return list(texts)


def _has_concepts(study: Study) -> bool:
    return bool(stated_findings(study) or study.report)


def concept_examples_of(study: Study) -> list[Example]:
    """The concept example of a study, where it has one."""
    return [_concepts_example(study)] if _has_concepts(study) else []


def _concepts_example(study: Study) -> Example:
    """From its findings, or where a data set gives none, from what the mapping finds in its report."""
    stated = stated_findings(study)
    response = concepts_response(stated) if stated else shipped().response(study.report or "")
    return Example(f"{study.id}/{Task.CONCEPTS}", Task.CONCEPTS, None, instruction(Task.CONCEPTS), response, study)


def second_reading(study: Study, finding: Finding, config: MCLConfig, seed: int) -> Finding:
    """The finding with ``config.noisy_box_share`` of its boxes as a second reader would draw them."""
    rng = random.Random(f"reader/{seed}/{study.id}/{finding.phrase}")
    boxes = tuple(
        jitter_box(box, study.width, study.height, config.box_jitter, rng, config.box_margin)
        if rng.random() < config.noisy_box_share
        else box
        for box in finding.boxes
    )
    return finding.model_copy(update={"boxes": boxes})


def _frame(study: Study, coordinates: Coordinates, side: int | None) -> tuple[int, int]:
    """Width and height of the image that the numbers in an answer refer to."""
    if coordinates != "pixel":
        return study.width, study.height
    if side is None:
        raise ValueError("pixel coordinates need the side of the square the model sees")
    return side, side


def _in_frame(boxes: Sequence[Box], study: Study, width: int, height: int) -> tuple[Box, ...]:
    across, down = width / study.width, height / study.height
    return tuple(Box(box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down) for box in boxes)
