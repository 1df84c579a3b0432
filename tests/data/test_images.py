from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxmed_ray.data import images
from boxmed_ray.data.study import DataError
from tests.data.conftest import make_study, write_image


def test_a_missing_image_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: no such image file; restore it"):
        images.open_image(tmp_path / "gone.png")


def test_a_folder_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file"):
        images.open_image(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: is empty"):
        images.open_image(tmp_path / "a.png")


def test_text_with_an_image_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>" * 50)
    with pytest.raises(DataError, match=r"a\.jpg: is not a readable PNG"):
        images.open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, suffix: str, kept: float) -> None:
    path = write_image(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match=rf"a\{suffix}: .*copy it again"):
        images.open_image(path)


def test_a_damaged_png_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png: is truncated or damaged"):
        images.open_image(path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (9000, 8000)).save(path)
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match=r"bomb\.png: has 72000000 pixels"):
        images.open_image(path)


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="has 2 frames; save the one"):
        images.open_image(tmp_path / "a.gif")


def test_a_16_bit_image_uses_its_own_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 2048, 4095]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(images.open_image(tmp_path / "a.png")).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("RGB", (9, 8, 7), (9, 8, 7)),
        ("RGBA", (200, 100, 50, 0), (0, 0, 0)),
        ("LA", (200, 255), (200, 200, 200)),
    ],
)
def test_every_mode_becomes_grey_or_rgb(tmp_path: Path, mode: str, color: Any, expected: tuple[int, ...]) -> None:
    Image.new(mode, (4, 4), color).save(tmp_path / "a.png")
    opened = images.open_image(tmp_path / "a.png")
    assert opened.mode in {"L", "RGB"}
    assert opened.convert("RGB").getpixel((1, 1)) == expected


def test_palette_and_cmyk_keep_their_colours(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), (250, 10, 10))
    picture.quantize(4).save(tmp_path / "palette.png")
    assert images.open_image(tmp_path / "palette.png").getpixel((0, 0)) == (250, 10, 10)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert images.open_image(tmp_path / "cmyk.jpg").getpixel((0, 0)) == pytest.approx((250, 10, 10), abs=12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_and_its_size_is_known_from_the_header(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose members that make the stored from the upright
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(images.open_image(tmp_path / "a.png")), np.asarray(upright))
    assert images.image_size(tmp_path / "a.png") == (4, 3)


def test_the_cache_gives_the_same_pixels_and_notices_a_new_file(tmp_path: Path) -> None:
    store = images.ImageStore(28, tmp_path / "cache")
    study = make_study(tmp_path, image=write_image(tmp_path / "a.png", 200, 200), width=200, height=200)
    first, second = store.load(study), store.load(study)
    assert first.mode == second.mode == "RGB"
    assert np.array_equal(np.asarray(first), np.asarray(second))
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1
    Image.new("L", (200, 200), 7).save(study.image)
    assert store.load(study).getpixel((3, 3)) == (7, 7, 7)


def test_the_cache_keeps_colours(tmp_path: Path) -> None:
    Image.new("RGB", (80, 80), (200, 30, 10)).save(tmp_path / "a.png")
    for _ in range(2):
        assert images.load_square(tmp_path / "a.png", 28, tmp_path / "cache").getpixel((5, 5)) == (200, 30, 10)


def _dicom(path: Path, pixels: np.ndarray, kind: str, **elements: object) -> Path:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.PatientName = "Secret^Name"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, kind
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_dicom_is_windowed_and_monochrome1_is_inverted(tmp_path: Path) -> None:
    pixels = np.array([[0, 1000, 2000, 3000, 4000]])
    bright = _dicom(tmp_path / "b.dcm", pixels, "MONOCHROME2")
    assert np.asarray(images.open_image(bright)).tolist() == [[0, 64, 128, 191, 255]]
    dark = _dicom(tmp_path / "d.dcm", pixels, "MONOCHROME1")
    assert np.asarray(images.open_image(dark)).tolist() == [[255, 191, 127, 64, 0]]
    window = _dicom(tmp_path / "w.dcm", pixels, "MONOCHROME2", WindowCenter=2000, WindowWidth=2001)
    low, _, middle, _, high = np.asarray(images.open_image(window))[0].tolist()
    assert (low, high) == (0, 255)
    assert middle == pytest.approx(128, abs=1)
    assert images.image_size(window) == (5, 1)


def test_dicom_without_a_suffix_is_recognised(tmp_path: Path) -> None:
    path = _dicom(tmp_path / "IM0001", np.array([[0, 4095]]), "MONOCHROME2")
    assert images.image_size(path) == (2, 1)


def test_a_truncated_dicom_is_refused_without_naming_the_patient(tmp_path: Path) -> None:
    path = _dicom(tmp_path / "a.dcm", np.arange(400).reshape(20, 20), "MONOCHROME2")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.dcm: its DICOM pixels cannot be decoded") as caught:
        images.open_image(path)
    assert "Secret" not in str(caught.value)


def test_a_colour_dicom_is_refused(tmp_path: Path) -> None:
    path = _dicom(tmp_path / "a.dcm", np.array([[0, 1]]), "PALETTE COLOR")
    with pytest.raises(DataError, match="photometric interpretation PALETTE COLOR"):
        images.open_image(path)


def test_bytes_decode_as_files_do(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (5, 4), 3).save(buffer, "PNG")
    assert images.decode_image(buffer.getvalue(), Path("sent")).size == (5, 4)


def test_an_image_that_decodes_quickly_is_not_kept(tmp_path: Path) -> None:
    images.ImageStore(28, tmp_path / "cache").load(make_study(tmp_path, image=write_image(tmp_path / "a.png", 56, 56)))
    assert not (tmp_path / "cache").exists()
