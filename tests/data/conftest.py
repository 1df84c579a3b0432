"""Small data sets written by hand in the published layouts, for tests of reading and refusing."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxmed_ray.config import DataConfig
from boxmed_ray.data.load import Dataset, load_studies
from boxmed_ray.data.readers import Located, SkippedStudy, find_reader
from boxmed_ray.data.study import Box, Finding, Study

BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def write_image(path: Path, width: int = 64, height: int = 64) -> Path:
    """A grey ramp with noise, so that truncation of the file cannot go unnoticed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (height, width), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def make_study(folder: Path, name: str = "s1", **values: object) -> Study:
    """A good study with a nodule in the left lung, its image written."""
    defaults: dict[str, object] = {
        "id": name,
        "patient_id": f"p-{name}",
        "image": write_image(folder / "images" / f"{name}.png"),
        "width": 64,
        "height": 64,
        "report": "Nodule.",
        "findings": (
            Finding(phrase="Nodule.", boxes=(Box(40, 8, 56, 24),), disease="Lung Lesion", region="left lung"),
        ),
        "source": "made-up",
    }
    return Study.model_validate(defaults | values)


@pytest.fixture
def nih(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder in NIH's layout: ``nih(boxes=[line, …], entries=[line, …])``, with every image listed."""

    def write(boxes: Sequence[str] = (), entries: Sequence[str] | None = None, header: str = BOX_HEADER) -> Path:
        root = tmp_path / "nih"
        # Five patients of which the hash holds out some: enough for both splits.
        names = [f"0000000{patient}_000" for patient in range(1, 9)]
        good = [f"{name}.png,No Finding,0,{name[7]},60,M,PA,2500,2048,0.168,0.168" for name in names[1:]]
        first = f"{names[0]}.png,Nodule|Infiltration,0,1,60,M,PA,2500,2048,0.168,0.168"
        lines = [first, *good] if entries is None else list(entries)
        for line in lines:
            write_image(root / "images" / f"{Path(line.split(',')[0]).stem}.png", 128, 128)
        (root / "BBox_List_2017.csv").write_text("\n".join([header, *boxes]) + "\n")
        (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([ENTRY_HEADER, *lines]) + "\n")
        return root

    return write


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Dataset]:
    """``load(kind, root, **fields of DataConfig)`` through the one entry that training uses."""

    def run(kind: str, root: Path, **fields: object) -> Dataset:
        config = DataConfig.model_validate({"kind": kind, "root": root, "test_share": 0.5, "image_size": 28, **fields})
        return load_studies(config, 0, tmp_path / "cache")

    return run


Read = Callable[[str, Path], tuple[dict[str, Study], dict[str, SkippedStudy]]]


@pytest.fixture
def read() -> Read:
    """``read(kind, root)``: studies and skipped ones by id, before any image is decoded."""

    def run(kind: str, root: Path) -> tuple[dict[str, Study], dict[str, SkippedStudy]]:
        items = list(find_reader(kind)(root, 0.5))
        studies = {item.study.id: item.study for item in items if isinstance(item, Located)}
        return studies, {item.id: item for item in items if isinstance(item, SkippedStudy)}

    return run


def write_lines(path: Path, *lines: str) -> Path:
    """A table of the given lines; gzipped where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def mimic_jpg(root: Path, subject: int, study: int, dicom: str, width: int = 64, height: int = 48) -> Path:
    """An image where MIMIC-CXR-JPG has it: ``files/p10/p10000032/s50414267/<dicom>.jpg``."""
    return write_image(root / f"files/p{str(subject)[:2]}/p{subject}/s{study}/{dicom}.jpg", width, height)


def write_dicom(path: Path, pixels: np.ndarray, kind: str, **elements: object) -> Path:
    """One frame of 16 bits, 12 of them stored, uncompressed, with the name of a patient."""
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
