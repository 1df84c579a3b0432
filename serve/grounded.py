"""A grounded report: the adapter writes, the backbone locates every sentence.

What lives here: splitting a report into sentences, reading the answer to one of them, and the two engine
calls in order. What does not: the engine (engine.py), HTTP (api.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from boxmed_ray.config import RunConfig
from boxmed_ray.data.knowledge import DISEASES, REGIONS
from boxmed_ray.data.prompts import Coordinates, Task, parse_answer
from boxmed_ray.data.study import Box
from serve.questions import GREEDY, Completion, Engine, Question, Sampling
from serve.schemas import Sentence


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be written.

    Attributes:
        adapter: name of the one that writes the report.
        grounding: locate every sentence.
        max_tokens: of the report; None takes the run's.
        sampling: of the report; boxes are always answered greedily, as they are evaluated.
    """

    adapter: str
    grounding: bool = True
    max_tokens: int | None = None
    sampling: Sampling = GREEDY


@dataclass(frozen=True, slots=True)
class GroundedReport:
    """Report and located sentences, with the wall time (milliseconds) of both engine calls."""

    report: str
    truncated: bool
    sentences: list[Sentence]
    report_ms: float
    ground_ms: float


class Reporter:
    """Writes and grounds reports with one engine, in the form the run was trained in."""

    def __init__(self, engine: Engine, config: RunConfig, max_sentences: int) -> None:
        self._engine = engine
        self._coordinates = config.data.coordinates
        self._side = config.data.image_size
        self._report_tokens = config.evaluate.report_tokens
        self._ground_tokens = config.svr.max_new_tokens
        self._max_sentences = max_sentences

    async def write(
        self, image: Image.Image, width: int, height: int, wanted: Wanted, told: Callable[[str], None] | None = None
    ) -> GroundedReport:
        """Write the report, and locate its sentences where that is wanted.

        Args:
            image: the radiograph as the model sees it.
            width: pixels of the image that was sent, in which boxes are wanted.
            height: the same.
            wanted: what is to be written.
            told: gets the report piece by piece as it is written, from the engine's thread.
        """
        begun = time.perf_counter()
        question = Question(
            Task.REPORT, None, wanted.max_tokens or self._report_tokens, wanted.adapter, wanted.sampling
        )
        report = (await self._engine.ask(image, [question], told and (lambda _, text: told(text))))[0]
        written = time.perf_counter()
        texts = split_sentences(report.text)[: self._max_sentences]
        if wanted.grounding:
            sentences = await self.locate(image, texts, width, height)
        else:
            sentences = [Sentence.not_located(text) for text in texts]
        located = time.perf_counter()
        return GroundedReport(
            report.text.strip(), report.truncated, sentences, 1000 * (written - begun), 1000 * (located - written)
        )

    async def locate(self, image: Image.Image, texts: Sequence[str], width: int, height: int) -> list[Sentence]:
        """Ask the backbone where it sees each of ``texts``, all in one batch; sizes are those of the sent image."""
        answers = await self._engine.ask(
            image, [Question(Task.GROUND, asked_phrase(text), self._ground_tokens) for text in texts]
        )
        return [
            read_sentence(text, answer, width, height, self._coordinates, self._side)
            for text, answer in zip(texts, answers, strict=True)
        ]


_ABBREVIATIONS = frozenset({"approx", "ca", "cf", "dr", "e.g", "i.e", "incl", "mr", "mrs", "ms", "prof", "resp", "vs"})
"""Words that always keep their full stop."""
_BEFORE_DIGITS_ONLY = frozenset({"no", "nr", "fig"})
_ENDS_BEFORE_CAPITAL = frozenset({"cm", "mm", "etc"})
_BREAK = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|\n+")
_BULLET = re.compile(r"^(?:[-*•–]|\(?\d{1,2}[.)])\s+")


def split_sentences(text: str) -> list[str]:
    """Sentences of a report, stripped, with their final punctuation; nothing but white space and bullets is lost.

    A full stop ends a sentence only before white space or the end, so decimals (``3.2 cm``) stay whole;
    abbreviations and numbers of a list (``1.``) do not end one. Lines are sentences of their own.
    """
    sentences, start = [], 0
    for match in _BREAK.finditer(text):
        if match[0][0] == "." and _goes_on(text[start : match.start()], text[match.end() :]):
            continue
        sentences.append(text[start : match.end()])
        start = match.end()
    sentences.append(text[start:])
    stripped = (_BULLET.sub("", sentence.strip()) for sentence in sentences)
    return [sentence for sentence in stripped if re.search(r"\w", sentence)]


def _goes_on(before: str, after: str) -> bool:
    """Whether a full stop between ``before`` (from the sentence's start) and ``after`` ends nothing."""
    following = after.lstrip(" \t")[:1]
    if not following or following == "\n":
        return False
    words = before.split()
    if not words:
        return True
    word = words[-1].lstrip("(\"'").lower()
    if len(words) == 1 and word.isdigit():
        return True
    if word in _BEFORE_DIGITS_ONLY:
        return following.isdigit()
    if word in _ENDS_BEFORE_CAPITAL:
        return not following.isupper()
    return word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and following.islower())


_SPECIAL = re.compile(r"<\|[^|<>]*\|>|</?(?:think|answer)>")


def asked_phrase(sentence: str) -> str:
    """What the backbone is asked for: the whole sentence, as training asks for findings and denials."""
    return " ".join(without_control(sentence).split())


def without_control(text: str) -> str:
    """``text`` without what the tokenizer would take for control tokens: they could end a turn and begin another."""
    while (cleaned := _SPECIAL.sub(" ", text)) != text:  # what is left of one may be another
        text = cleaned
    return text


def read_sentence(
    text: str, answer: Completion, width: int, height: int, coordinates: Coordinates, side: int
) -> Sentence:
    """Read the answer about one sentence; boxes come out in pixels of the ``width`` x ``height`` image.

    ``side`` is of the square the model saw: "pixel" coordinates count its pixels, the others are relative
    and need no detour.
    """
    if coordinates == "pixel":
        parsed = parse_answer(answer.text, side, side, coordinates)
        boxes = parsed.boxes and tuple(_scale(box, width / side, height / side) for box in parsed.boxes)
    else:
        parsed = parse_answer(answer.text, width, height, coordinates)
        boxes = parsed.boxes
    disease, region = read_concepts(parsed.think)
    return Sentence(
        text=text,
        disease=disease,
        region=region,
        boxes=None if boxes is None else [_inside(box, width, height) for box in boxes],
        reasoning=parsed.think,
        malformed=not parsed.well_formed,
        truncated=answer.truncated,
    )


def read_concepts(reasoning: str) -> tuple[str | None, str | None]:
    """Disease and region that a chain (``Findings -> Disease -> Region``) names; None where it names none."""
    links = [link.strip(" .").casefold() for link in re.split(r"->|→|;", reasoning)]
    disease = next((d for link in links for d in DISEASES if d.casefold() == link), None)
    region = next((r for link in links for r in REGIONS if r.casefold() == link), None)
    return disease, region


def _scale(box: Box, across: float, down: float) -> Box:
    return Box(box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down)


def _inside(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """Clip the rounding that the parser tolerates; two decimals are finer than any model's coordinate."""
    return (
        round(min(max(box.x1, 0.0), width), 2),
        round(min(max(box.y1, 0.0), height), 2),
        round(min(max(box.x2, 0.0), width), 2),
        round(min(max(box.y2, 0.0), height), 2),
    )
