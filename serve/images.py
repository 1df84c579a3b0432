"""From bytes of unknown origin to one radiograph, within limits.

What lives here: which kinds are let in, and size and frames checked from the header before any pixel is
decoded. What does not: decoding itself, which is training's (boxmed_ray.data.images), so that a served
image looks to the model as a trained one did.
"""

from __future__ import annotations

import binascii
import io
import logging
import warnings
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from boxmed_ray.data.images import decode_image, resize_square
from boxmed_ray.data.study import DataError
from serve.polyglot import is_polyglot
from serve.security import Limits, RequestRefusedError

MEDIA_TYPES = ("image/png", "image/jpeg", "application/dicom")
_FORMATS = ("PNG", "JPEG")
_DICOM_MARK = slice(128, 132)
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_SIZE_ELEMENTS = ("Rows", "Columns", "NumberOfFrames")
_SCAN = b"\xff\xda"
_MOST_SCANS = 100
"""Passes over a JPEG's pixels: encoders make ten. Each costs as much as the whole image, however few bytes it has."""
_GROWS = "deflated and RLE DICOM is not read, for it may grow without bound; export it uncompressed or as PNG"
_UNREADABLE = "the image cannot be read; send a whole PNG, JPEG or DICOM file"


@dataclass(frozen=True, slots=True)
class Radiograph:
    """An image that was sent: as the model sees it, and the size in which boxes are wanted."""

    seen: Image.Image
    width: int
    height: int


def prepare(data: bytes, side: int, limits: Limits) -> Radiograph:
    """Decode and resize to the ``side`` x ``side`` RGB of training; the large original is let go.

    Raises:
        RequestRefusedError: as ``decode``.
    """
    image = decode(data, limits)
    seen = resize_square(image, side)
    seen.info.clear()  # Pillow carries along what a header says, and writes some of it into files
    return Radiograph(seen, image.width, image.height)


def is_dicom(data: bytes) -> bool:
    """Whether it says so of itself."""
    return data[_DICOM_MARK] == b"DICM"


def from_base64(text: str) -> bytes:
    """Decode the JSON field ``image``.

    Raises:
        RequestRefusedError: 422, where it is not base64.
    """
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestRefusedError(
            422, "image is not base64 of a file's bytes; paths, URLs and data: addresses are not read"
        ) from None


def decode(data: bytes, limits: Limits) -> Image.Image:
    """Decode a PNG, JPEG or DICOM file.

    Returns:
        The image upright (EXIF rotation applied, as viewers do), 8 bit, mode L or RGB.

    Raises:
        RequestRefusedError: 422 empty, unreadable, truncated or several frames; 413 more pixels than the limit.
            What a decoder says of a file stays out of the message: it may quote the patient's data.
    """
    if not data:
        raise RequestRefusedError(422, "the image is empty")
    width, height, frames = _dicom_header(data) if is_dicom(data) else _image_header(data, limits)
    if width < 1 or height < 1:
        raise RequestRefusedError(422, _UNREADABLE)
    if width * height > limits.pixels or max(width, height) > limits.side:
        raise _too_many_pixels(limits)
    if frames > 1:
        raise RequestRefusedError(422, "the image has several frames; send a single-frame radiograph")
    _one_thing_only(data)
    try:
        return decode_image(data, Path("image"))
    except DataError:
        raise RequestRefusedError(422, "the image is truncated or damaged; send the whole file") from None


def _one_thing_only(data: bytes) -> None:
    try:
        if is_polyglot(data):
            raise RequestRefusedError(
                422, "the file holds something beside its image (a document, an archive, a page); export the image anew"
            )
    except ValueError:
        raise RequestRefusedError(422, "the image is truncated or damaged; send the whole file") from None


def _image_header(data: bytes, limits: Limits) -> tuple[int, int, int]:
    try:
        with warnings.catch_warnings():
            # Our own, lower limit is checked before decoding; Pillow's warning would only reach the log.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.format != "PNG":
                    _check_scans(data)
                return image.width, image.height, getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:
        raise _too_many_pixels(limits) from None
    except Exception:  # a hostile header makes Pillow raise nearly anything
        raise RequestRefusedError(422, _UNREADABLE) from None


def _dicom_header(data: bytes) -> tuple[int, int, int]:
    import pydicom

    if _DEFLATED in data:
        raise RequestRefusedError(422, _GROWS)
    try:
        header: Any = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(_SIZE_ELEMENTS))
        syntax = header.file_meta.get("TransferSyntaxUID")
        if syntax and syntax.is_encapsulated:
            _check_scans(data)
        size = int(header.Columns), int(header.Rows), int(header.get("NumberOfFrames", 1) or 1)
    except Exception:  # a hostile file makes pydicom raise nearly anything
        raise RequestRefusedError(422, _UNREADABLE) from None
    if syntax == pydicom.uid.RLELossless:
        raise RequestRefusedError(422, _GROWS)
    return size


def _check_scans(data: bytes) -> None:
    if data.count(_SCAN) > _MOST_SCANS:  # within the pixels of a JPEG these two bytes mean nothing else
        raise ValueError("a JPEG that takes hours to decode")


def _too_many_pixels(limits: Limits) -> RequestRefusedError:
    return RequestRefusedError(
        413,
        f"the image has more than {limits.pixels // 1_000_000} million pixels or a side above {limits.side}; "
        "send a smaller one",
    )


def tame_decoders(limits: Limits) -> None:
    """Keep pydicom from logging values of elements it finds odd, for they may identify a patient, and Pillow from
    images larger than the limit where DICOM hides them behind a smaller size.
    """
    Image.MAX_IMAGE_PIXELS = limits.pixels // 2  # Pillow refuses twice as many
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="pydicom")
