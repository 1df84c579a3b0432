"""Images at a fraction of their size, boxes with them, as the paper prepares its data (arXiv 2504.18453 §4.2).

What lives here: how large a smaller image is, and a study on its smaller image. What does not: decoding and the square
that a model sees (images.py), reports (report_text.py), which studies (load.py).
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
from pathlib import Path
from typing import Final

from PIL import Image

from boxmed_ray.data.images import open_image
from boxmed_ray.data.study import Box, DataError, Finding, Study

PAPER_SCALE: Final = 0.25
"""A quarter of height and width."""
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")


def smaller_size(width: int, height: int, scale: float = PAPER_SCALE, max_pixels: int | None = None) -> tuple[int, int]:
    """Width and height of the smaller image, each at least 1; never larger than the given one.

    Args:
        width: pixels.
        height: pixels.
        scale: of both sides, above 0 and at most 1; unused where ``max_pixels`` is given.
        max_pixels: a budget for width times height instead; the aspect ratio is kept as far as whole pixels allow.

    Raises:
        ValueError: ``scale`` or ``max_pixels`` is out of range.
    """
    if max_pixels is not None:
        if max_pixels < 1:
            raise ValueError(f"max_pixels = {max_pixels}: must be at least 1")
        scale = min(1.0, math.sqrt(max_pixels / (width * height)))
        # Rounded down: two sides rounded up would break the budget.
        return max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
    if not 0 < scale <= 1:
        raise ValueError(f"scale = {scale}: must be above 0 and at most 1")
    return max(1, round(width * scale)), max(1, round(height * scale))


def smaller_boxes(boxes: tuple[Box, ...], old: tuple[int, int], new: tuple[int, int]) -> tuple[Box, ...]:
    """Boxes of an image of size ``old`` (width, height) in the pixels of its copy of size ``new``."""
    across, down = new[0] / old[0], new[1] / old[1]
    return tuple(Box(b.x1 * across, b.y1 * down, b.x2 * across, b.y2 * down) for b in boxes)


def shrink_study(study: Study, folder: Path, scale: float = PAPER_SCALE, max_pixels: int | None = None) -> Study:
    """The study on a smaller copy of its image, which is written into ``folder`` as 8-bit PNG.

    The copy holds pixels alone: no Exif, no DICOM elements. Processes that write the same copy do not disturb each
    other.

    Raises:
        DataError: the image cannot be read, or is not of the study's size.
    """
    return shrink_opened(open_image(study.image), study, folder, scale, max_pixels)


def shrink_opened(
    image: Image.Image, study: Study, folder: Path, scale: float = PAPER_SCALE, max_pixels: int | None = None
) -> Study:
    """As ``shrink_study``, for the study's image already opened."""
    old = study.width, study.height
    if image.size != old:
        raise DataError(f"{study.image}: is {image.width}x{image.height}, but its study says {old[0]}x{old[1]}")
    new = smaller_size(*old, scale, max_pixels)
    path = folder / f"{_file_name(study)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    smaller = image if new == old else image.resize(new, Image.Resampling.BICUBIC)
    # Encoded in memory: a full disk is then told by the system, and not by Pillow's encoder.
    encoded = io.BytesIO()
    smaller.save(encoded, format="PNG")
    temporary.write_bytes(encoded.getvalue())
    os.replace(temporary, path)
    findings = tuple(_moved(finding, old, new) for finding in study.findings)
    return study.model_copy(update={"image": path.absolute(), "width": new[0], "height": new[1], "findings": findings})


def _moved(finding: Finding, old: tuple[int, int], new: tuple[int, int]) -> Finding:
    readings = tuple(smaller_boxes(boxes, old, new) for boxes in finding.readings)
    return finding.model_copy(update={"boxes": smaller_boxes(finding.boxes, old, new), "readings": readings})


def _file_name(study: Study) -> str:
    """The study's id where it can be a file name anywhere, else a digest of it."""
    if _FILE_NAME.fullmatch(study.id):
        return study.id
    return hashlib.sha256(study.id.encode()).hexdigest()[:32]
