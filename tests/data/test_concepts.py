from __future__ import annotations

import pytest

from boxmed_ray.data.concepts import NIH_DENIALS, NIH_LABELS, concept_of_name, label_of, region_of_box
from boxmed_ray.data.knowledge import DISEASES, REGIONS
from boxmed_ray.data.study import Box, Finding


@pytest.mark.parametrize(
    ("box", "region"),
    [
        (Box(100, 400, 200, 500), "right lung"),
        (Box(700, 400, 800, 500), "left lung"),
        (Box(100, 100, 200, 200), "right apical zone"),
        (Box(700, 100, 800, 200), "left apical zone"),
        (Box(100, 300, 900, 800), "whole lung"),
        (Box(400, 300, 700, 800), "left lung"),
    ],
)
def test_the_patients_left_is_on_the_right_of_the_image(box: Box, region: str) -> None:
    assert region_of_box(box, 1000, 1000) == region
    half = Box(box.x1 / 2, box.y1 / 4, box.x2 / 2, box.y2 / 4)
    assert region_of_box(half, 500, 250) == region


def test_every_table_stays_inside_the_banks() -> None:
    for concept in NIH_LABELS.values():
        assert concept.disease is None or concept.disease in DISEASES
        assert concept.region is None or concept.region in REGIONS


def test_each_denial_has_a_label_that_it_denies() -> None:
    phrases = {concept.phrase for concept in NIH_LABELS.values()}
    for denial in NIH_DENIALS:
        assert denial.phrase.removeprefix("No ").capitalize() in phrases


def test_results_keep_labels_that_share_a_disease_apart() -> None:
    mass, nodule = (Finding(phrase=phrase, disease="Lung Lesion") for phrase in ("Mass.", "Nodule."))
    assert (label_of(mass), label_of(nodule)) == ("Mass", "Nodule")
    assert label_of(Finding(phrase="Infiltrate.", disease="Lung Opacity")) == "Infiltrate"
    assert label_of(Finding(phrase="A small nodule.", disease="Lung Lesion")) == "Lung Lesion"
    assert label_of(Finding(phrase="Left lung.", region="left lung")) == "left lung"


def test_names_of_the_banks_are_known_in_any_case() -> None:
    effusion, lung = concept_of_name("pleural EFFUSION"), concept_of_name(" Left Lung")
    assert effusion is not None
    assert effusion.disease == "Pleural Effusion"
    assert lung is not None
    assert (lung.region, lung.disease) == ("left lung", None)
    assert concept_of_name("toe") is None
