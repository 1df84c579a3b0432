"""Perceptual hashes: the same picture is close, another is not; the search finds what comparing all pairs finds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxmed_ray.data.images import open_image
from boxmed_ray.data.perceptual_hash import MAX_DISTANCE, close_pairs, perceptual_hash


def picture(seed: int) -> Image.Image:
    """Smooth, as a radiograph is, with noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).resize(
        (300, 360), Image.Resampling.BICUBIC
    )
    noise = rng.normal(0, 3, (360, 300))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def distance(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


@pytest.mark.parametrize("seed", range(5))
def test_resized_reencoded_and_brightened_copies_are_close_and_others_far(seed: int) -> None:
    image = picture(seed)
    own = perceptual_hash(image)
    copies = [
        image.resize((75, 90)),
        jpeg(image, 60),
        image.point(lambda value: value * 0.7 + 20),
        image.convert("RGB"),
    ]
    assert all(distance(own, perceptual_hash(copy)) <= MAX_DISTANCE for copy in copies)
    assert distance(own, perceptual_hash(picture(seed + 100))) > 60


def test_pictures_without_content_are_all_the_same() -> None:
    blank = [perceptual_hash(Image.new("L", (20, 30), shade)) for shade in (0, 90, 255)]
    assert blank == ["0" * 64] * 3


def test_the_search_finds_the_pairs_that_comparing_bit_by_bit_finds() -> None:
    rng = np.random.default_rng(3)
    bits = rng.random((60, 256)) < 0.5
    for later in range(20, 60, 4):  # copies of earlier ones, 0 to 18 bits away
        bits[later] = bits[later - 20]
        bits[later, rng.choice(256, (later - 20) // 2, replace=False)] ^= True
    hashes = [np.packbits(row).tobytes().hex() for row in bits]
    wanted = {(i, j) for j in range(60) for i in range(j) if distance(hashes[i], hashes[j]) <= MAX_DISTANCE}
    assert set(close_pairs(hashes)) == wanted
    assert 3 < len(wanted) < 10


def test_no_two_published_radiographs_are_taken_for_one(shared_data: Path) -> None:
    paths = sorted(path for path in (shared_data / "nih-cxr14").rglob("*.jpg"))[:120]
    hashes = [perceptual_hash(open_image(path)) for path in paths]
    assert len(hashes) == 120
    assert not list(close_pairs(hashes, 3 * MAX_DISTANCE))
