"""The labeller: general sentences by hand, aggregation, properties, and F1 on the IU X-ray reference labels."""

from __future__ import annotations

import csv
import tarfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.categories import CATEGORIES, NO_FINDING
from rewards.text.labels import MAX_CHARACTERS, Status, findings, label

P, U, N = Status.POSITIVE, Status.UNCERTAIN, Status.NEGATIVE

SENTENCES = [
    ("There is a small left pleural effusion.", {"Pleural Effusion": P}),
    ("Effusion is present, and pneumothorax is not seen.", {"Pleural Effusion": P, "Pneumothorax": N}),
    ("No pneumothorax, pleural effusion, or focal consolidation.",
     {"Pneumothorax": N, "Pleural Effusion": N, "Consolidation": N}),
    ("No pneumothorax or large pleural effusion.", {"Pneumothorax": N, "Pleural Effusion": N}),
    ("No pneumothorax, small left pleural effusion.", {"Pneumothorax": N, "Pleural Effusion": P}),
    ("No pneumothorax but there is a small effusion.", {"Pneumothorax": N, "Pleural Effusion": P}),
    ("No effusion. However, bibasilar atelectasis persists.", {"Pleural Effusion": N, "Atelectasis": P}),
    ("The previously seen right pneumothorax has resolved.", {"Pneumothorax": N}),
    ("Interval resolution of the left pleural effusion.", {"Pleural Effusion": N}),
    ("Resolved pneumonia.", {"Pneumonia": N}),
    ("Resolving pneumonia.", {"Pneumonia": P}),
    ("No change in the moderate right effusion.", {"Pleural Effusion": P}),
    ("No significant interval change in bibasilar atelectasis.", {"Atelectasis": P}),
    ("Pneumothorax is not significantly changed.", {"Pneumothorax": P}),
    ("Possible small left effusion.", {"Pleural Effusion": U}),
    ("Opacity which may represent pneumonia.", {"Lung Opacity": P, "Pneumonia": U}),
    ("Pneumonia cannot be excluded.", {"Pneumonia": U}),
    ("Cannot exclude a small apical pneumothorax.", {"Pneumothorax": U}),
    ("Left basilar atelectasis versus pneumonia.", {"Atelectasis": U, "Pneumonia": U}),
    ("Opacity concerning for pneumonia.", {"Lung Opacity": P, "Pneumonia": U}),
    ("No evidence to suggest pneumonia.", {"Pneumonia": N}),
    ("History of pneumonia.", {}),
    ("CT is recommended to exclude an underlying mass.", {}),
    ("The heart is mildly enlarged.", {"Cardiomegaly": P}),
    ("There is moderate enlargement of the cardiac silhouette.", {"Cardiomegaly": P}),
    ("The heart is not enlarged.", {"Cardiomegaly": N}),
    ("Heart size is normal, and the lungs are clear.", {"Cardiomegaly": N, "Lung Opacity": N}),
    ("Heart size is at the upper limits of normal.", {"Cardiomegaly": U}),
    ("Heart size is normal, aorta is enlarged.", {"Cardiomegaly": N}),
    ("The mediastinum is widened, heart is normal.", {"Enlarged Cardiomediastinum": P, "Cardiomegaly": N}),
    ("Widening of the superior mediastinum.", {"Enlarged Cardiomediastinum": P}),
    ("Blunting of the left costophrenic angle.", {"Pleural Effusion": U}),
    ("Costophrenic angles are sharp.", {"Pleural Effusion": N}),
    ("Large pericardial effusion.", {}),
    ("Subcutaneous emphysema in the chest wall.", {}),
    ("No acute displaced rib fracture.", {"Fracture": N}),
    ("Old healed right rib fractures.", {"Fracture": P}),
    ("Endotracheal tube tip is 4.5 cm above the carina.", {"Support Devices": P}),
    ("The chest tube has been removed.", {"Support Devices": N}),
    ("Pulmonary vascular congestion without frank pulmonary edema.", {"Edema": N}),
    ("Neither effusion nor pneumothorax is seen.", {"Pleural Effusion": N, "Pneumothorax": N}),
    ("Lungs are free of consolidation, masses and nodules.", {"Consolidation": N, "Lung Lesion": N}),
    ("A 1.5 cm nodule in the right upper lobe.", {"Lung Lesion": P}),
    ("Complete collapse of the left lower lobe.", {"Atelectasis": P}),
    ("Biapical pleural thickening.", {"Pleural Other": P}),
    ("NO EFFUSION; STABLE CARDIOMEGALY", {"Pleural Effusion": N, "Cardiomegaly": P}),
    ("No acute cardiopulmonary process.", {}),
    # What opens an item of a list does not take back the word that denies or doubts it.
    ("Heart is enlarged, no large effusion.", {"Cardiomegaly": P, "Pleural Effusion": N}),
    ("No pneumothorax, no right effusion, and no new infiltrate.",
     {"Pneumothorax": N, "Pleural Effusion": N, "Lung Opacity": N}),
    ("Cardiomegaly with possible small effusions.", {"Cardiomegaly": P, "Pleural Effusion": U}),
    # A noun with a verb of its own is not denied by what came before.
    ("There is no effusion and heart is enlarged.", {"Pleural Effusion": N, "Cardiomegaly": P}),
    ("No effusion, lungs are clear.", {"Pleural Effusion": N, "Lung Opacity": N}),
    ("No effusion and pneumothorax is seen.", {"Pleural Effusion": N, "Pneumothorax": N}),
    ("Heart size and pulmonary vascularity are normal.", {"Cardiomegaly": N}),
    ("No acute, displaced rib fractures are seen.", {"Fracture": N}),
    ("Heart is normal in size without effusion.", {"Cardiomegaly": N, "Pleural Effusion": N}),
    # Tables, and abbreviations.
    ("Pleural effusion: None. Pneumothorax: no. Edema: negative. Heart: normal.",
     {"Pleural Effusion": N, "Pneumothorax": N, "Edema": N, "Cardiomegaly": N}),
    ("Pleura: no effusion or pneumothorax", {"Pleural Effusion": N, "Pneumothorax": N}),
    ("Low volumes w/o effusion, r/o pneumonia.", {"Pleural Effusion": N}),
    ("Effusion cannot be seen. Chest no longer shows a pneumothorax.", {"Pleural Effusion": N, "Pneumothorax": N}),
    ("The effusion has partially resolved. Opacity unlikely to represent pneumonia.",
     {"Pleural Effusion": P, "Lung Opacity": P, "Pneumonia": N}),
    ("Pneumonia should be considered. Fracture ruled out.", {"Pneumonia": U, "Fracture": N}),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES)
def test_a_sentence_is_read_as_a_clinician_would(sentence: str, expected: dict[str, Status]):
    read = label(sentence)
    read.pop(NO_FINDING, None)
    assert read == expected


def test_positive_beats_uncertain_beats_negative_over_a_report():
    assert label("No effusion. Possible effusion.")["Pleural Effusion"] is U
    assert label("Small effusion. Possible effusion. No effusion.")["Pleural Effusion"] is P


def test_no_finding_looks_at_everything_but_devices():
    assert label("Lungs are clear. Pacemaker in place.")[NO_FINDING] is P
    assert NO_FINDING not in label("Possible pneumonia.")
    assert NO_FINDING not in label("Cardiomegaly.")
    assert label("") == {NO_FINDING: P}


def test_sentences_of_a_report_do_not_touch_each_other():
    sentences = [(s, e) for s, e in SENTENCES if e]
    for first, expected_first in sentences[::3]:
        for second, expected_second in sentences[1::3]:
            if not expected_first.keys() & expected_second.keys():
                read = label(f"{first} {second}")
                read.pop(NO_FINDING, None)
                assert read == expected_first | expected_second, (first, second)


@given(st.text(max_size=400))
def test_any_text_has_labels_among_the_14(text: str):
    assert set(label(text)) <= set(CATEGORIES)


@pytest.mark.parametrize(
    "unit", ["no ", "heart ", "no effusion, ", "enlarged ", "effusion or ", "possible the ", "mass removed and ", "."]
)
def test_time_is_bounded_for_long_repetitions(unit: str):
    began = time.process_time()
    label(unit * (1_000_000 // len(unit)))
    assert time.process_time() - began < 2
    began = time.process_time()
    label("heart " * 1500 + "big " * 2500)
    assert time.process_time() - began < 2
    assert findings("x" * MAX_CHARACTERS + " effusion") == {}


IU_XRAY = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Effusion": "pleural effusion",
    "Emphysema": "emphysema",
    "Infiltration": "infiltrate",
    "Nodule": "nodule",
    "Pleural_Thickening": "pleural thickening",
    "Pneumonia": "pneumonia",
}
"""Labels with at least 20 positives among the reference labels → our finding."""


def test_macro_f1_on_reference_labels_of_iu_xray(shared_data: Path):
    references = _iu_xray(shared_data / "iu-xray")
    read = [({name for name, s in findings(text).items() if s is P}, labels) for text, labels in references]
    scores = {}
    for name, ours in IU_XRAY.items():
        hits = sum(ours in found and name in true for found, true in read)
        scores[name] = 2 * hits / sum((ours in found) + (name in true) for found, true in read)
    print({name: round(score, 3) for name, score in scores.items()})
    assert sum(scores.values()) / len(scores) >= 0.9
    assert min(scores.values()) >= 0.8


def _iu_xray(folder: Path) -> list[tuple[str, set[str]]]:
    """Findings and impression of every labelled report, and its labels."""
    with (folder / "negbio_labels_dev.csv").open(encoding="utf-8") as file:
        labels = {row.pop("filename"): {k for k, v in row.items() if v == "1"} for row in csv.DictReader(file)}
    reports = {}
    with tarfile.open(folder / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            file_in = archive.extractfile(member) if member.name.endswith(".xml") else None
            if file_in is None:
                continue
            root = ET.parse(file_in).getroot()
            parts = {part.get("Label"): part.text or "" for part in root.iter("AbstractText")}
            key = next(element.get("id") for element in root.iter("uId"))
            reports[key] = f"{parts.get('FINDINGS', '')}\n{parts.get('IMPRESSION', '')}"
    return [(reports[name], found) for name, found in labels.items()]
