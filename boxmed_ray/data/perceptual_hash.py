"""Hashes of what a picture shows, and which of many are close: the same radiograph, resized or re-encoded.

What lives here: the hash and the search. What does not: what follows from two pictures being the same (checks.py).

The hash is the sign pattern of the lowest frequencies of the picture's cosine transform, without the mean: brightness,
contrast, size and compression hardly change it. Radiographs resemble each other, so it has 256 bits where 64 are usual.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from PIL import Image

_SIDE: Final = 64
_KEPT: Final = 16
_WORDS: Final = _KEPT**2 // 64
MAX_DISTANCE: Final = 12
"""Bits of 256 in which two hashes of one picture may differ. Copies at a quarter of the size, as JPEG of quality 60,
differ in at most 7 nine times of ten; of 679 published radiographs no two differ in fewer than 57."""


def perceptual_hash(image: Image.Image) -> str:
    """64 hexadecimal digits; a picture of one shade has the digits of nothing, all 0."""
    from scipy.fft import dctn

    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    # Rounded: what is left of a frequency that the picture does not hold must not decide a bit.
    low = np.round(dctn(np.asarray(grey, dtype=np.float64), norm="ortho")[:_KEPT, :_KEPT].ravel(), 6)
    low[0] = 0.0
    return np.packbits(low > 0).tobytes().hex()


def close_pairs(hashes: Sequence[str], max_distance: int = MAX_DISTANCE) -> Iterator[tuple[int, int]]:
    """Pairs (earlier, later) of positions whose hashes differ in at most ``max_distance`` bits, in order.

    Every pair is compared, a word at a time: 100,000 hashes take some ten seconds. Memory is that of the hashes.
    """
    words = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(-1, _WORDS)
    first = np.ascontiguousarray(words[:, 0])
    for later, own in enumerate(words):
        near = np.flatnonzero(np.bitwise_count(first[:later] ^ own[0]) <= max_distance)
        if len(near):
            distance = np.bitwise_count(words[near] ^ own).sum(axis=1, dtype=np.int64)
            yield from ((int(earlier), later) for earlier in near[distance <= max_distance])
