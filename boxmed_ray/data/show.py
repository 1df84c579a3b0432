"""Studies drawn with their boxes and words: a contact sheet as PNG, or a page that needs no other file.

What lives here: the choice of studies and both drawings. What does not: reading (sources.py), the report of a run
(evaluate/).
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from boxmed_ray.data.images import open_image
from boxmed_ray.data.study import Finding, Study

COLOURS: Final = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#46b5d1", "#f032e6", "#9a8500", "#008080")
_COLUMNS: Final = 4
_TILE: Final = 320
_LINE: Final = 14
_LINES: Final = 10
_PAGE_SIDE: Final = 768
"""Longer sides are scaled down to this on the page."""


def choose(
    studies: Iterable[Study],
    count: int,
    seed: int,
    *,
    split: str | None = None,
    disease: str | None = None,
    ids: Sequence[str] = (),
) -> list[Study]:
    """``count`` studies that a seed decides, in the order of their ids; only they are held.

    Args:
        studies: to choose from.
        count: fewer where there are fewer.
        seed: another one gives others.
        split: only of this one.
        disease: only with a finding of it.
        ids: these studies, whatever else is asked for.
    """
    if ids:
        asked = frozenset(ids)
        return [study for study in studies if study.id in asked]

    def fits(study: Study) -> bool:
        diseases = {finding.disease for finding in study.findings}
        return (split is None or study.split == split) and (disease is None or disease in diseases)

    def place(study: Study) -> bytes:
        return hashlib.sha256(f"{seed}/{study.id}".encode()).digest()

    return sorted(heapq.nsmallest(count, filter(fits, studies), key=place), key=lambda study: study.id)


def draw_sheet(studies: Sequence[Study]) -> bytes:
    """A contact sheet, PNG: each image within 320 px, its findings below it.

    Raises:
        DataError: an image cannot be read.
    """
    height = _TILE + _LINES * _LINE + 8
    rows = -(-len(studies) // _COLUMNS)
    sheet = Image.new("RGB", (min(len(studies), _COLUMNS) * _TILE, rows * height), "white")
    for number, study in enumerate(studies):
        sheet.paste(_tile(study, height), (number % _COLUMNS * _TILE, number // _COLUMNS * height))
    return _encoded(sheet, "PNG")


def draw_page(studies: Sequence[Study], title: str) -> str:
    """HTML that holds its images.

    Raises:
        DataError: an image cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("boxmed_ray.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards = [_Card(study, _data_uri(study), _marks(study)) for study in studies]
    return environment.get_template("show.html").render(title=title, cards=cards)


@dataclass(frozen=True, slots=True)
class _Mark:
    finding: Finding
    colour: str


@dataclass(frozen=True, slots=True)
class _Card:
    study: Study
    image: str
    marks: list[_Mark]


def _marks(study: Study) -> list[_Mark]:
    return [_Mark(finding, COLOURS[number % len(COLOURS)]) for number, finding in enumerate(study.findings)]


def _tile(study: Study, height: int) -> Image.Image:
    tile = Image.new("RGB", (_TILE, height), "white")
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(_LINE - 3)
    image = open_image(study.image).convert("RGB")
    ratio = (_TILE - 8) / max(image.size)
    shown = image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))))
    left, top = (_TILE - shown.width) // 2, (_TILE - shown.height) // 2
    tile.paste(shown, (left, top))
    across, down = shown.width / study.width, shown.height / study.height
    lines = [(f"{study.id} ({study.source}, {study.split})", "#222")]
    for mark in _marks(study):
        for b in mark.finding.boxes:
            corners = left + b.x1 * across, top + b.y1 * down, left + b.x2 * across, top + b.y2 * down
            draw.rectangle(corners, outline=mark.colour, width=2)
        colour = mark.colour if mark.finding.boxes else "#666"
        lines += [(line, colour) for line in textwrap.wrap(mark.finding.phrase, 50)]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], (f"… and {len(lines) - _LINES + 1} lines more", "#666")]
    for number, (line, colour) in enumerate(lines):
        draw.text((6, _TILE + number * _LINE), line[:56], fill=colour, font=font)
    return tile


def _data_uri(study: Study) -> str:
    image = open_image(study.image)
    image.thumbnail((_PAGE_SIDE, _PAGE_SIDE))
    return "data:image/png;base64," + base64.b64encode(_encoded(image, "PNG")).decode()


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()
