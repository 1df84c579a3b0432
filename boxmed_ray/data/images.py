"""Image files -> pixels: opened once, decoded in full, turned upright, resized once.

What lives here: PNG, JPEG, TIFF, BMP, WebP, JPEG 2000 and DICOM, and every way in which such a file
can be bad. What does not: what is in the image (readers/), patches and tensors (model/inputs.py).
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tempfile
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from boxmed_ray.data.study import DataError, Study

MAX_PIXELS: Final = 64_000_000
"""Larger images are refused before they are decoded; the largest detectors give some 20 million."""
MAX_BYTES: Final = 512_000_000
SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".dcm", ".dicom"})
_FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "JPEG2000", "GIF")
_WORTH_KEEPING: Final = 4
"""Images of more than this many times the model's pixels are kept resized; others decode as fast as a file opens."""
_DICOM_MARK: Final = slice(128, 132)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such images are refused here


def open_image(path: Path) -> Image.Image:
    """The image at ``path``, upright, fully decoded, 8 bit, mode L (grey) or RGB.

    Raises:
        DataError: missing, unreadable, empty, truncated, too large, animated or not an image; the
            message names the file and the remedy.
    """
    return decode_image(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        DataError: there is no such file, it is empty, too large, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError(f"{path}: is not a file; give the path of an image file")
        if size > MAX_BYTES:
            raise DataError(f"{path}: has {size} bytes, more than {MAX_BYTES}; give a single frame as PNG or JPEG")
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file; restore it or remove its study") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not data:
        raise DataError(f"{path}: is empty (0 bytes); copy it again from its source")
    return data


def decode_image(data: bytes, path: Path) -> Image.Image:
    """As ``open_image``, for bytes already read; ``path`` is for messages only."""
    if data[_DICOM_MARK] == b"DICM":
        return _decode_dicom(data, path)
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:
        raise DataError(_too_large(path, "over 170 million")) from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: is not a readable PNG, JPEG, TIFF, WebP or DICOM file; copy it again") from None
    except Exception as error:  # damaged headers make Pillow raise nearly anything
        raise DataError(f"{path}: has a damaged header ({error}); copy it again from its source") from error
    _check_frame(image.width, image.height, frames, path)
    try:
        image.load()
        return _eight_bit(ImageOps.exif_transpose(image))
    except Exception as error:  # truncated or damaged data: SyntaxError, OSError, struct.error, zlib.error, …
        raise DataError(f"{path}: is truncated or damaged ({error}); copy it again from its source") from error


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright image from its header, without decoding pixels.

    Raises:
        DataError: as ``open_image``, but truncated pixels go unnoticed.
    """
    try:
        if path.suffix.lower() in {".dcm", ".dicom"}:
            with path.open("rb") as file:
                return _dicom_size(_dicom_header(file))
        with Image.open(path, formats=_FORMATS) as image:
            # A PNG decodes itself in search of Exif data that its head does not hold.
            exif = {} if image.format == "PNG" and "exif" not in image.info else image.getexif()
            turned = exif.get(0x0112, 1) in {5, 6, 7, 8}
            return (image.height, image.width) if turned else image.size
    except Exception:  # open_image says what is wrong, or decodes what the header alone did not tell
        return open_image(path).size


def load_square(path: Path, side: int, cache: Path | None = None) -> Image.Image:
    """The image as the model sees it: RGB, ``side`` x ``side`` (the aspect ratio is given up).

    Args:
        path: the stored image.
        side: pixels.
        cache: folder in which resized images are kept, as arrays, under the file's path, size and time.

    Raises:
        DataError: as ``open_image``.
    """
    if cache is None:
        return resize_square(open_image(path), side)
    kept = _cache_path(path, side, cache)
    if kept is not None and kept.is_file():
        return Image.fromarray(np.load(kept)).convert("RGB")
    image = open_image(path)
    keep_square(image, path, side, cache)
    return resize_square(image, side)


@dataclass(frozen=True, slots=True)
class ImageStore:
    """Where a run gets its pixels: the side the model sees and the folder of resized images. Cheap to pickle."""

    side: int
    cache: Path | None = None

    def load(self, study: Study) -> Image.Image:
        """The study's image, RGB, ``side`` x ``side``."""
        return load_square(study.image, self.side, self.cache)


def resize_square(image: Image.Image, side: int) -> Image.Image:
    """``image`` as RGB of ``side`` x ``side``, area-averaged where it shrinks."""
    grey_or_rgb = image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BICUBIC)
    return grey_or_rgb.convert("RGB")


def keep_square(image: Image.Image, path: Path, side: int, cache: Path) -> None:
    """Put the opened ``image`` of ``path``, resized, into the cache where that saves time later.

    Safe against other processes that do the same.
    """
    kept = _cache_path(path, side, cache)
    if image.width * image.height <= _WORTH_KEEPING * side**2 or kept is None or kept.is_file():
        return
    pixels = np.asarray(resize_square(image, side))
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # grey: a third of the space
    kept.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=kept.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        np.save(file, pixels)
    os.replace(temporary, kept)


def _cache_path(path: Path, side: int, cache: Path) -> Path | None:
    """Where the resized image is kept; None for a file that is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{side}".encode()).hexdigest()
    return cache / f"{side}px" / key[:2] / f"{key[2:34]}.npy"


def _too_large(path: Path, pixels: object) -> str:
    return f"{path}: has {pixels} pixels, more than {MAX_PIXELS}; scale it down first"


def _check_frame(width: int, height: int, frames: int, path: Path) -> None:
    if width < 1 or height < 1:
        raise DataError(f"{path}: has no pixels ({width}x{height}); copy it again from its source")
    if width * height > MAX_PIXELS:
        raise DataError(_too_large(path, width * height))
    if frames > 1:
        raise DataError(f"{path}: has {frames} frames; save the one that is meant as PNG")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Any mode of Pillow as L or RGB; see-through pixels become black."""
    if image.mode in {"L", "RGB"}:
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_stretch(np.asarray(image, dtype=np.float64)))
    if image.mode in {"LA", "PA", "RGBA", "RGBa", "La"} or "transparency" in image.info:
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, (0, 0, 0, 255)), shown).convert("RGB")
    return image.convert("RGB")


def _stretch(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """More than 8 bits onto 0–255 by the image's own range: 12-bit detectors leave a 16-bit file nearly black."""
    if not np.isfinite(pixels).all():
        raise ValueError("pixels that are not finite numbers")
    low, high = float(pixels.min()), float(pixels.max())
    return np.round((pixels - low) * (255.0 / max(high - low, 1e-9))).astype(np.uint8)


_DICOM_ELEMENTS: Final = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PlanarConfiguration", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth", "PixelData",
)  # fmt: skip
"""All that is read of a DICOM file. Names, dates and numbers of patients stay unread, and so out of messages."""
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_RLE: Final = "1.2.840.10008.1.2.5"
_J2K_SIZE: Final = b"\xff\x4f\xff\x51"


def _dicom_header(file: IO[bytes], pixels: bool = False) -> Any:
    """The elements of ``_DICOM_ELEMENTS``; pydicom raises nearly anything where a file is damaged."""
    import pydicom

    # The whole of a deflated file is unpacked before anything tells how large it is.
    if _DEFLATED in file.read(1024):
        raise ValueError("deflated transfer syntax")
    file.seek(0)
    elements = list(_DICOM_ELEMENTS)
    return pydicom.dcmread(file, stop_before_pixels=not pixels, specific_tags=elements)


def _dicom_size(dataset: Any) -> tuple[int, int]:
    return int(dataset.Columns), int(dataset.Rows)


def _decode_dicom(data: bytes, path: Path) -> Image.Image:
    """One frame of a DICOM file: rescaled, windowed as stored, MONOCHROME1 inverted. No identifier is read."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    try:
        dataset = _dicom_header(io.BytesIO(data), pixels=True)
        width, height = _dicom_size(dataset)
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
    except Exception as error:
        raise DataError(f"{path}: is not a readable DICOM image ({_about(error)}); export it again") from None
    _check_frame(width, height, frames, path)
    try:
        _check_codestream(dataset.get("PixelData", b""), width, height)
        if dataset.file_meta.get("TransferSyntaxUID") == _RLE:
            _check_runs(dataset.PixelData, width * height)
        pixels = dataset.pixel_array
        kind = str(dataset.PhotometricInterpretation)
        if pixels.ndim != 2 or not kind.startswith("MONOCHROME"):
            raise ValueError(f"photometric interpretation {kind}, but a radiograph is MONOCHROME1 or MONOCHROME2")
        grey = _stretch(apply_voi_lut(apply_modality_lut(pixels, dataset), dataset).astype(np.float64))
        return Image.fromarray(255 - grey if kind == "MONOCHROME1" else grey)
    except Exception as error:
        raise DataError(
            f"{path}: its DICOM pixels cannot be decoded ({_about(error)}); export it uncompressed or as PNG"
        ) from None


def _check_codestream(pixels: bytes, width: int, height: int) -> None:
    """JPEG 2000 tells its size a second time; a decoder believes that one."""
    start = pixels.find(_J2K_SIZE, 0, 4096)
    if start >= 0:
        across, down, left, top = struct.unpack(">4I", pixels[start + 8 : start + 24])
        if (across - left, down - top) != (width, height):
            raise ValueError(f"JPEG 2000 of {across - left}x{down - top} pixels in a file of {width}x{height}")


def _check_runs(pixels: bytes, size: int) -> None:
    """Two bytes of a run unpack to 128; a decoder unpacks a plane of bytes whole before it counts them."""
    from pydicom.encaps import get_frame

    frame = get_frame(pixels, 0, number_of_frames=1)
    count, *starts = struct.unpack("<16I", frame[:64])
    planes = [*starts[:count], len(frame)]
    for begin, end in pairwise(planes):
        at, left = begin, size + 64  # some encoders fill the last run up
        while at < end and left >= 0:
            head = frame[at]
            # One byte many times, so many bytes once, or nothing.
            unpacked, packed = (257 - head, 2) if head > 128 else (head + 1, head + 2) if head < 128 else (0, 1)
            at, left = at + packed, left - unpacked
        if left < 0:
            raise ValueError(f"run lengths of more than {size} pixels")


def _about(error: Exception) -> str:
    """An error in one line of limited length."""
    return " ".join(str(error).split())[:300]
