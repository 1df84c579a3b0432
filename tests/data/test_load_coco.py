from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boxmed_ray.data.load import Dataset
from boxmed_ray.data.study import DataError
from tests.data.conftest import write_image

Load = Callable[..., Dataset]


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., Path]:
    def write(change: Callable[[dict[str, Any]], object] = lambda data: None) -> Path:
        root = tmp_path / "lungs"
        numbers = range(1, 9)
        data: dict[str, Any] = {
            "images": [{"id": i, "file_name": f"a{i}.png", "width": 64, "height": 48} for i in numbers],
            "annotations": [{"id": i, "image_id": i, "category_id": 2, "bbox": [30, 4, 20.5, 40]} for i in numbers],
            "categories": [{"id": 1, "name": "Right Lung"}, {"id": 2, "name": "Left Lung"}, {"id": 3, "name": "Toe"}],
        }
        for i in numbers:
            write_image(root / "images" / f"a{i}.png", 64, 48)
        change(data)
        (root / "instances.json").write_text(json.dumps(data))
        return root

    return write


def test_boxes_and_regions_are_read(coco: Callable[..., Path], load: Load) -> None:
    study = load("coco", coco()).studies[0]
    (finding,) = study.findings
    assert finding.boxes == ((30, 4, 50.5, 44),)
    assert (finding.phrase, finding.region, finding.disease) == ("Left lung.", "left lung", None)
    assert (study.id, study.patient_id, study.source) == ("a1", "a1", "lungs")


BAD: list[tuple[Callable[[dict[str, Any]], object], list[str]]] = [
    (lambda d: d["annotations"][2].update(bbox=[30, 4, 40, 9]), ["annotations[2].bbox = [30, 4, 40, 9]", "leaves"]),
    (lambda d: d["annotations"][2].update(bbox=[30, 4, -4, 9]), ["annotations[2].bbox", "w and h above 0"]),
    (lambda d: d["annotations"][2].update(bbox=["a", 4, 4, 9]), ["annotations[2].bbox = ['a'", "numbers"]),
    (lambda d: d["annotations"][2].update(category_id=3), ["annotations[2].category_id = 3", "'Toe'", "rename it"]),
    (lambda d: d["annotations"][2].update(category_id=8), ["category_id = 8", "no such category"]),
    (lambda d: d["annotations"][2].update(image_id=99), ["annotations[2].image_id = 99", "not among the images"]),
    (lambda d: d["images"][2].update(file_name="../../x.png"), ["images[2].file_name", "lies outside", "correct"]),
    (lambda d: d["images"][2].update(file_name=None), ["images[2].file_name = None", "must name"]),
    (lambda d: d["images"][2].update(file_name="no.png"), ["images[2].file_name = 'no.png': no such image"]),
    (lambda d: d["images"][2].update(width="64"), ["images[2]: width, height = '64', 48", "whole numbers"]),
    (lambda d: d["images"][2].update(height=50), ["a3.png: is 64x48", "height = 50"]),
    (lambda d: d["images"][2].update(id=1), ["images[2].id = 1", "must be there once"]),
    (lambda d: d["images"][2].update(file_name="a" * 300 + ".png"), ["images[2].file_name", "File name too long"]),
    (lambda d: d["categories"][0].update(id=2), ["category_id = 2", "2 categories have this id"]),
    (lambda d: d["images"][2].update(file_name="a1.png"), ["images[2]: id = 'a1'", "images[0] too"]),
]


@pytest.mark.parametrize(("change", "expected"), BAD)
def test_a_bad_entry_is_refused_by_key_value_and_remedy(
    coco: Callable[..., Path], load: Load, change: Callable[[dict[str, Any]], object], expected: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        load("coco", coco(change))
    for part in ["instances.json", *expected]:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["_annotations.coco.json", "annotations/instances_train.json"])
def test_a_file_of_another_name_is_read(coco: Callable[..., Path], load: Load, name: str) -> None:
    root = coco()
    (root / name).parent.mkdir(exist_ok=True)
    (root / "instances.json").rename(root / name)
    for given in (root, root / name):
        dataset = load("coco", given)
        assert len(dataset.studies) == 8
        assert {study.source for study in dataset.studies} == {"lungs"}
    (root / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"instances\.json: no such file; .* \(2 are there\)"):
        load("coco", root)


def test_numbers_that_are_none_are_refused(coco: Callable[..., Path], load: Load) -> None:
    with pytest.raises(DataError, match=r"annotations\[2\]\.bbox = \[nan, 4, 4, 9\]: must be"):
        load("coco", coco(lambda d: d["annotations"][2].update(bbox=[float("nan"), 4, 4, 9])))
    with pytest.raises(DataError, match=r"annotations\[2\]\.image_id: must be a number or text"):
        load("coco", coco(lambda d: d["annotations"][2].update(image_id=[1])))


def test_what_is_not_coco_is_refused(coco: Callable[..., Path], load: Load, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"instances\.json: no such file; data\.root must hold"):
        load("coco", tmp_path)
    with pytest.raises(DataError, match="categories: must be a list of objects"):
        load("coco", coco(lambda data: data.pop("categories")))
    (tmp_path / "instances.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        load("coco", tmp_path)


def test_images_of_one_name_in_several_folders_are_several_studies_and_folders_may_be_linked(
    coco: Callable[..., Path], load: Load
) -> None:
    def change(data: dict[str, Any]) -> None:
        for number, image in enumerate(data["images"], 1):
            image["file_name"] = f"p{number}/frontal.png"

    root = coco(change)
    outside = root.parent / "outside"
    (root / "images").rename(outside)
    for number in range(1, 9):
        (outside / f"p{number}").mkdir()
        (outside / f"a{number}.png").rename(outside / f"p{number}/frontal.png")
    (root / "images").symlink_to(outside)
    studies = load("coco", root).studies
    assert [study.id for study in studies] == [f"p{number}/frontal" for number in range(1, 9)]
    assert len({study.image for study in studies}) == 8
