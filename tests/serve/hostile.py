"""Image files as an enemy, or a broken archive, would send them; and a DICOM file with a patient's name."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

PATIENT = "Mustermann^Erika"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(width: int = 30, height: int = 20) -> Image.Image:
    return Image.fromarray(np.arange(width * height, dtype=np.uint32).reshape(height, width).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header promises ``width`` x ``height`` pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


def dicom(pixels: np.ndarray, *, frames: int = 1, deflated: bool = False) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.PatientName = PATIENT
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.NumberOfFrames = frames
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = pixels.astype("<u2").tobytes() * frames
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def animated() -> bytes:
    return encoded(grey(), "PNG", save_all=True, append_images=[Image.new("L", (30, 20), 9)])


def rotated() -> bytes:
    """A JPEG stored lying, 30 x 20, that viewers show upright, 20 x 30."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(grey(), "JPEG", exif=exif)


def encapsulated(coded: bytes, width: int, height: int, syntax: UID = JPEGBaseline8Bit) -> bytes:
    """A DICOM file around a compressed frame that says it has ``width`` x ``height`` pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.Rows, dataset.Columns = height, width
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = encapsulate([coded])
    dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def run_length_bomb(width: int = 30, height: int = 20) -> bytes:
    """A few kilobytes of RLE that say they are small and unpack to a hundred times as much."""
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    return encapsulated(header + b"\x81\x00" * 50_000, width, height, RLELossless)


def many_scans(count: int) -> bytes:
    """A progressive JPEG that has its last scan ``count`` times over: each costs a pass over all pixels."""
    whole = encoded(grey(), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        written.writestr("payload.txt", "anything")
    return buffer.getvalue()


def archive_within(head: bytes, tail: bytes) -> bytes:
    """``head``, a ZIP archive and ``tail``, which the archive takes for its comment."""
    held = bytearray(archive())
    struct.pack_into("<H", held, len(held) - 2, len(tail))
    return head + bytes(held) + tail


def polyglots() -> dict[str, bytes]:
    """Images that are something else besides, each accepted by a decoder of images that does not look for it."""
    png, jpeg, scan = encoded(grey()), encoded(grey(), "JPEG"), dicom(np.zeros((20, 30)))
    page = b"<html><script>alert(1)</script></html>"

    def comment(data: bytes) -> bytes:
        return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(data) + 2) + data + jpeg[2:]

    tail = jpeg[2:]
    inner = archive_within(b"", tail)[: len(archive())]
    return {
        "png and zip": png + archive(),
        "png and page": png + page,
        "png with a page in it": png[:33] + chunk(b"tEXt", b"Comment\0" + page) + png[33:],
        "jpeg and zip": jpeg + archive(),
        "jpeg and a zip that ends as a jpeg does": archive_within(jpeg, b"\xff\xd9"),
        "jpeg with a zip in its comment": jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(inner) + 2) + inner + tail,
        "jpeg and pdf": comment(b"%PDF-1.7\n1 0 obj"),
        "jpeg and page": comment(page),
        "jpeg and php": comment(b"<?php system($_GET[0]); ?>"),
        "dicom and program": b"MZ" + bytes(126) + scan[128:],
        "dicom and page": page.ljust(128) + scan[128:],
        "dicom and zip": scan + archive(),
    }
