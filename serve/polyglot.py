"""Files that are two things at once: a JPEG that is a ZIP archive too, a PNG that a browser shows as a page.

What lives here: where an image ends, and what its metadata may not begin. What does not: whether it can be decoded
(images.py). Nothing here decodes a pixel or believes what a file is called.
"""

from __future__ import annotations

import re

_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])")
"""A marker of JPEG that is not stuffing, fill or a restart: one that has a size, or the end."""
_END, _COMMENT, _APPLICATION = 0xD9, 0xFE, range(0xE0, 0xF0)
_MOST_PARTS = 65_536
"""Segments of a JPEG or chunks of a PNG: real ones have some dozens, or one for each 8 KiB of pixels."""
_FOREIGN = re.compile(rb"%PDF-|PK\x03\x04|PK\x05\x06|Rar!\x1a|7z\xbc\xaf|<!doctype|<html|<script|<svg|<\?php", re.I)
_ARCHIVE_END = b"PK\x05\x06"
_ARCHIVE_TAIL = 22 + 65_535
"""Bytes in which a ZIP archive's end must lie: its record and the longest comment."""
_PREAMBLE = 128
_TIFF = (b"II*\x00", b"MM\x00*")


def is_polyglot(data: bytes) -> bool:
    """Whether the PNG, JPEG or DICOM file ``data`` is something else besides.

    That is: something follows its last byte (but zeros), its metadata hold the beginning of a document or an archive,
    or a DICOM preamble is neither empty nor TIFF's, the only other use that the standard knows (PS3.10, 7.1). What
    pixels spell is not looked at: an image is never handed out as it came.

    Raises:
        ValueError: the file ends before its image does, or has more parts than any real one.
    """
    if data[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        preamble = data[:_PREAMBLE]
        return _is_archive(data) or not (preamble.startswith(_TIFF) or not preamble.strip(b"\0"))
    end, metadata = _png(data) if data.startswith(b"\x89PNG") else _jpeg(data)
    return (
        bool(data[end:].strip(b"\0"))
        or _is_archive(data)
        or b"%PDF-" in data[:1024]
        or any(_FOREIGN.search(part) for part in metadata)
    )


def _png(data: bytes) -> tuple[int, list[bytes]]:
    """Where the last chunk ends, and all chunks but pixels."""
    parts: list[bytes] = []
    position = 8
    for _ in range(_MOST_PARTS):
        length, kind = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        if len(kind) < 4:
            raise ValueError("a PNG without an end")
        position += 12 + length
        if kind == b"IEND":
            return position, parts
        if kind != b"IDAT":
            parts.append(data[position - 4 - length : position - 4])
    raise ValueError("a PNG of more chunks than any real one")


def _jpeg(data: bytes) -> tuple[int, list[bytes]]:
    """Where the end marker ends, and comments and application segments."""
    parts: list[bytes] = []
    position = 2
    for _ in range(_MOST_PARTS):
        marker = _MARKER.search(data, position)
        if marker is None:
            raise ValueError("a JPEG without an end")
        kind, start = marker[1][0], marker.end()
        if kind == _END:
            return start, parts
        position = start + int.from_bytes(data[start : start + 2])
        if kind == _COMMENT or kind in _APPLICATION:
            parts.append(data[start:position])
    raise ValueError("a JPEG of more segments than any real one")


def _is_archive(data: bytes) -> bool:
    """Whether a ZIP archive ends where the file does."""
    tail = data[-_ARCHIVE_TAIL:]
    at = tail.rfind(_ARCHIVE_END)
    return at >= 0 and at + 22 + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail)
