"""Boxes and numbers as data sets write them, checked as they are read.

What lives here: corners from cells or text, and whether a box lies in its image. What does not: columns (tables.py),
what a box is (study.py).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence

from boxmed_ray.data.study import Box, DataError


def finite(value: object, where: str) -> float:
    """``value`` as a finite number; DataError naming ``where`` otherwise."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where} = {value!r}: not a number; correct it")
    return number


def corners(values: Sequence[object], where: str) -> Box:
    """A box from four numbers x1, y1, x2, y2; DataError where it is none, inverted or empty."""
    if len(values) != 4:
        raise DataError(f"{where} = {list(values)!r}: must be four numbers x1, y1, x2, y2; correct it")
    box = Box(*(finite(value, where) for value in values))
    if box.x2 <= box.x1 or box.y2 <= box.y1:
        raise DataError(f"{where} = {list(box)}: the box is inverted or empty; x1 < x2 and y1 < y2 must hold")
    return box


def corner_text(text: str, where: str) -> Box:
    """A box written as ``[x1, y1, x2, y2]`` in one cell; DataError where it is none."""
    try:
        values = ast.literal_eval(text) if len(text) < 200 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = None
    if not isinstance(values, list | tuple):
        raise DataError(f"{where} = {text[:80]!r}: must be [x1, y1, x2, y2]; correct it")
    return corners(values, where)


def check_inside(box: Box, size: tuple[float, float], where: str) -> None:
    """DataError where a box leaves an image of ``size`` by more than half a pixel."""
    if box.x1 < -0.5 or box.y1 < -0.5 or box.x2 > size[0] + 0.5 or box.y2 > size[1] + 0.5:
        raise DataError(f"{where}: box {[*box]}: leaves the {size[0]:g}x{size[1]:g} image; correct the box")


def scaled_box(box: Box, across: float, down: float) -> Box:
    """A box with its x multiplied by ``across`` and its y by ``down``."""
    return Box(box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down)
