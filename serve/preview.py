"""A DICOM image for the page: its grey values in 16 bits, as a PNG that every browser decodes.

What lives here: grey values and the first window. What does not: what the model sees (images.py); the page windows the
values itself.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_modality_lut

from serve import images
from serve.security import Limits, RequestRefusedError

_SIDE = 2048
"""Pixels at most: more than a screen shows, and little enough to window with a slider."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A PNG (red: high byte, green: low byte of each value) and the window to begin with, on the same scale."""

    png: bytes
    centre: float
    width: float


def preview(data: bytes, limits: Limits) -> Preview:
    """The preview of a DICOM file.

    Raises:
        RequestRefusedError: as ``images.decode``; 415 where it is no DICOM file.
    """
    if not images.is_dicom(data):
        raise RequestRefusedError(415, "only DICOM images need a preview; a browser shows the others itself")
    images.decode(data, limits)  # all its refusals, before anything else is done
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset: Any = pydicom.dcmread(io.BytesIO(data))
        values = np.asarray(apply_modality_lut(dataset.pixel_array, dataset), np.float64)
    if values.ndim == 3:  # colour: its mean is grey enough for a window
        values = values.mean(-1)
    step = max(1, -(-max(values.shape) // _SIDE))
    low, high = float(values.min()), float(values.max())
    scale = 65_535 / max(high - low, 1e-9)
    centre, width = _window(dataset, low, high)
    grey = ((values[::step, ::step] - low) * scale).astype(np.uint16)
    centre, width = (centre - low) * scale, width * scale
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        grey, centre = 65_535 - grey, 65_535 - centre
    packed = np.stack([grey >> 8, grey & 255, np.zeros_like(grey)], -1).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(packed).save(written, "PNG", compress_level=1)
    return Preview(written.getvalue(), centre, width)


def _window(dataset: Any, low: float, high: float) -> tuple[float, float]:
    """The first window of the file, or all of its values."""
    try:
        first = [
            float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)
            for value in (dataset.WindowCenter, dataset.WindowWidth)
        ]
    except (AttributeError, TypeError, ValueError, IndexError):
        return (low + high) / 2, max(high - low, 1.0)
    return first[0], max(first[1], 1.0)
