from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxmed_ray.data import images
from boxmed_ray.data.study import DataError
from tests.data.conftest import make_study, write_dicom, write_image


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


def test_dicom_is_windowed_and_monochrome1_is_inverted(tmp_path: Path) -> None:
    pixels = np.array([[0, 1000, 2000, 3000, 4000]])
    bright = write_dicom(tmp_path / "b.dcm", pixels, "MONOCHROME2")
    assert np.asarray(images.open_image(bright)).tolist() == [[0, 64, 128, 191, 255]]
    dark = write_dicom(tmp_path / "d.dcm", pixels, "MONOCHROME1")
    assert np.asarray(images.open_image(dark)).tolist() == [[255, 191, 127, 64, 0]]
    window = write_dicom(tmp_path / "w.dcm", pixels, "MONOCHROME2", WindowCenter=2000, WindowWidth=2001)
    low, _, middle, _, high = np.asarray(images.open_image(window))[0].tolist()
    assert (low, high) == (0, 255)
    assert middle == pytest.approx(128, abs=1)
    assert images.image_size(window) == (5, 1)


def test_dicom_is_rescaled_before_its_first_window(tmp_path: Path) -> None:
    """Stored values x 2 - 1000; the window from 0 to 2000 is in those units, and the second one is not applied."""
    pixels = np.array([[0, 500, 1000, 1500, 4000]])
    path = write_dicom(
        tmp_path / "a.dcm", pixels, "MONOCHROME2", RescaleSlope=2, RescaleIntercept=-1000, RescaleType="US",
        WindowCenter=[1000, 5], WindowWidth=[2000, 5],
    )  # fmt: skip
    assert np.asarray(images.open_image(path))[0] == pytest.approx([0, 0, 128, 255, 255], abs=1)


def test_signed_dicom_pixels_keep_their_order(tmp_path: Path) -> None:
    pixels = np.array([[-2000, 0, 2000]])
    path = write_dicom(
        tmp_path / "a.dcm",
        pixels.astype("<i2").view("<u2"),
        "MONOCHROME2",
        PixelRepresentation=1,
        BitsStored=16,
        HighBit=15,
    )
    assert np.asarray(images.open_image(path)).tolist() == [[0, 128, 255]]


def test_dicom_without_a_suffix_is_recognised(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "IM0001", np.array([[0, 4095]]), "MONOCHROME2")
    assert images.image_size(path) == (2, 1)


def test_a_truncated_dicom_is_refused_without_naming_the_patient(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.arange(400).reshape(20, 20), "MONOCHROME2")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.dcm: its DICOM pixels cannot be decoded") as caught:
        images.open_image(path)
    assert "Secret" not in str(caught.value)


def test_a_colour_dicom_is_refused(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1]]), "PALETTE COLOR")
    with pytest.raises(DataError, match="photometric interpretation PALETTE COLOR"):
        images.open_image(path)


def test_bytes_decode_as_files_do(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (5, 4), 3).save(buffer, "PNG")
    assert images.decode_image(buffer.getvalue(), Path("sent")).size == (5, 4)


def test_an_image_that_decodes_quickly_is_not_kept(tmp_path: Path) -> None:
    images.ImageStore(28, tmp_path / "cache").load(make_study(tmp_path, image=write_image(tmp_path / "a.png", 56, 56)))
    assert not (tmp_path / "cache").exists()


def test_the_format_decides_and_not_the_suffix(tmp_path: Path) -> None:
    stored = write_image(tmp_path / "a.png", 20, 10)
    stored.rename(tmp_path / "a.jpg")
    assert images.open_image(tmp_path / "a.jpg").size == images.image_size(tmp_path / "a.jpg") == (20, 10)
    wrong = write_dicom(tmp_path / "b.png", np.array([[0, 4095]]), "MONOCHROME2")
    assert images.open_image(wrong).size == images.image_size(wrong) == (2, 1)
    (tmp_path / "c.dcm").write_bytes((tmp_path / "a.jpg").read_bytes())
    assert images.open_image(tmp_path / "c.dcm").size == images.image_size(tmp_path / "c.dcm") == (20, 10)


def test_no_element_about_a_patient_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pydicom logs and warns with the values of elements that break their rules."""
    import warnings

    path = tmp_path / "a.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dicom(
            path, np.array([[0, 4095]]), "MONOCHROME2", PatientBirthDate="Secret day", PatientID="Secret\\^" * 9
        )
    caplog.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.open_image(path).size == images.image_size(path) == (2, 1)
    assert "Secret" not in caplog.text
    with path.open("rb") as file:
        assert "Secret" not in str(images._dicom_header(file, pixels=True))


@pytest.mark.parametrize(("rows", "columns"), [(50000, 50000), (65535, 2000)])
def test_a_dicom_that_claims_too_many_pixels_is_refused(tmp_path: Path, rows: int, columns: int) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 4095]]), "MONOCHROME2", Rows=rows, Columns=columns)
    with pytest.raises(DataError, match=f"has {rows * columns} pixels, more than"):
        images.open_image(path)


def test_a_deflated_dicom_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    path = write_dicom(tmp_path / "a.dcm", np.zeros((500, 500)), "MONOCHROME2")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(DataError, match=r"a\.dcm: is not a readable DICOM image \(deflated transfer syntax\)"):
        images.open_image(path)


def test_a_jpeg_2000_larger_than_its_dicom_says_is_refused(tmp_path: Path) -> None:
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((300, 400), dtype=np.uint8)).save(buffer, "JPEG2000", no_jp2=True)
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 4095]]), "MONOCHROME2")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    with pytest.raises(DataError, match="JPEG 2000 of 400x300 pixels in a file of 2x1"):
        images.open_image(path)


def _sample(name: str) -> Path:
    """A file of pydicom-data: a chest radiograph of 15 bits, MONOCHROME1, in three transfer syntaxes."""
    store = pytest.importorskip("data_store", reason="pydicom-data is not installed: run make setup")
    return Path(next(iter(store.__path__))) / "data" / name


def test_real_radiographs_are_the_same_in_every_transfer_syntax() -> None:
    plain = np.asarray(images.open_image(_sample("RG1_UNCR.dcm"))).astype(int)
    lossless = np.asarray(images.open_image(_sample("RG1_J2KR.dcm"))).astype(int)
    lossy = np.asarray(images.open_image(_sample("RG1_J2KI.dcm"))).astype(int)
    assert plain.shape == (1955, 1841)
    assert images.image_size(_sample("RG1_J2KR.dcm")) == (1841, 1955)
    assert np.array_equal(plain, lossless)
    assert np.abs(plain - lossy).mean() < 3


def test_a_real_monochrome1_radiograph_is_shown_with_bright_bones_and_dark_lungs() -> None:
    """The air beside the body is dark, the spine in the middle is brighter than the lungs beside it."""
    pixels = np.asarray(images.open_image(_sample("RG1_UNCR.dcm"))).astype(float)
    height, width = pixels.shape
    middle = pixels[height * 4 // 10 : height * 6 // 10]
    spine = middle[:, int(width * 0.47) : int(width * 0.53)].mean()
    lungs = [middle[:, int(width * left) : int(width * (left + 0.06))].mean() for left in (0.25, 0.69)]
    assert spine > max(lungs) + 10


def _with_runs(path: Path, pixels: np.ndarray, plane: bytes | None = None) -> Path:
    """A DICOM of run lengths; ``plane`` in place of each of its two planes of bytes."""
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import RLELossless

    dataset = pydicom.dcmread(write_dicom(path, pixels, "MONOCHROME2"))
    dataset.compress(RLELossless)
    if plane is not None:
        starts = np.array([2, 64, 64 + len(plane), *[0] * 13], dtype="<u4").tobytes()
        dataset.PixelData = encapsulate([starts + plane * 2])
        dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


def test_run_lengths_are_read_and_those_that_unpack_to_too_much_refused(tmp_path: Path) -> None:
    ramp = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)
    read = images.open_image(_with_runs(tmp_path / "a.dcm", ramp))
    assert (np.asarray(read) == np.round(ramp * (255 / ramp.max()))).all()
    bomb = _with_runs(tmp_path / "b.dcm", ramp, b"\x81\x00" * 50_000)  # 6.4 million bytes a plane
    with pytest.raises(DataError, match=r"b\.dcm: .*run lengths of more than 3072 pixels"):
        images.open_image(bomb)
