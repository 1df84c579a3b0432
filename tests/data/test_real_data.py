"""All of the real data sets that are at hand, against the counts their description gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from boxmed_ray.config import DataConfig
from boxmed_ray.data.concepts import label_of
from boxmed_ray.data.examples import all_ground_examples, grounded_findings
from boxmed_ray.data.load import Dataset, load_studies

BOXES = {
    "Atelectasis": 111,
    "Effusion": 84,
    "Cardiomegaly": 82,
    "Infiltrate": 75,
    "Pneumonia": 71,
    "Pneumothorax": 69,
    "Mass": 58,
    "Nodule": 52,
}


@pytest.fixture(scope="module")
def nih(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    config = DataConfig(kind="nih", root=shared_data / "nih-cxr14", test_share=0.2)
    return load_studies(config, 0, tmp_path_factory.mktemp("nih"))


def test_all_of_nih_is_read(nih: Dataset) -> None:
    assert len(nih.studies) == 625
    assert len({study.patient_id for study in nih.studies}) == 510
    findings = [finding for study in nih.studies for finding in study.findings]
    counts: Counter[str] = Counter()
    for finding in findings:
        counts[label_of(finding)] += len(finding.boxes)
    assert +counts == BOXES
    assert sum(not grounded_findings(study) for study in nih.studies) == 85
    assert nih.skipped == ()
    held_out = {study.patient_id for study in nih.split("test")}
    assert len(held_out) / 510 == pytest.approx(0.2, abs=0.03)
    assert not held_out & {study.patient_id for study in nih.split("train")}


def test_most_nih_hearts_lie_about_the_midline(nih: Dataset) -> None:
    """Boxes on another grid than the image's would put hearts elsewhere."""
    hearts = [
        (finding.boxes[0], study)
        for study in nih.studies
        for finding in study.findings
        if finding.disease == "Cardiomegaly" and finding.boxes
    ]
    central = [0.4 < (box.x1 + box.x2) / 2 / study.width < 0.7 for box, study in hearts]
    assert sum(central) / len(hearts) > 0.95


def test_all_lungs_are_read_and_lie_on_their_side(shared_data: Path, load: Callable[..., Dataset]) -> None:
    dataset = load("coco", shared_data / "lungs-ccby", test_share=0.2)
    examples = all_ground_examples(dataset.studies)
    assert len(dataset.studies) == 54
    assert Counter(example.phrase for example in examples) == {"Left lung.": 54, "Right lung.": 54}
    for study in dataset.studies:
        # The patient's left is on the right of the image.
        middles = {f.region: (f.boxes[0].x1 + f.boxes[0].x2) / 2 for f in study.findings}
        assert middles["left lung"] > middles["right lung"]
