"""The mapping of free text onto the banks: by hand on sentences, its table's errors, and Open-i as it was published."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxmed_ray.commands.data_concepts import concepts, read_findings, thinking_example
from boxmed_ray.config import MCLConfig
from boxmed_ray.data.concept_coverage import is_unread, measure, read_reference
from boxmed_ray.data.concept_map import Chain, load_concepts, shipped, split_sentences
from boxmed_ray.data.examples import concept_examples_of, corpus, mcl_examples
from boxmed_ray.data.knowledge import DISEASES, REGIONS
from boxmed_ray.data.prompts import parse_answer
from boxmed_ray.data.study import DataError, Study
from rewards.categories import Status

P, U, N = Status.POSITIVE, Status.UNCERTAIN, Status.NEGATIVE
SHARED = Path(__file__).parents[3] / "shared" / "data" / "iu-xray"
needs_reports = pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data/iu-xray is absent: real reports")


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        # The paper's own example (§3.2.1): an indirect sign, so the disease is possible.
        ("Lungs are low in volume.", {("Atelectasis", U, "whole lung")}),
        ("There is a right lower lobe opacity.", {("Lung Opacity", P, "right lung")}),
        ("No pneumothorax or pleural effusion.",
         {("Pneumothorax", N, "whole lung"), ("Pleural Effusion", N, "whole lung")}),
        ("Possible left basilar atelectasis.", {("Atelectasis", U, "left lung")}),
        ("Heart size is normal.", {("Cardiomegaly", N, "cardiac silhouette")}),
        ("The heart is enlarged.", {("Cardiomegaly", P, "cardiac silhouette")}),
        ("Small left apical pneumothorax.", {("Pneumothorax", P, "left apical zone")}),
        ("Biapical scarring.",
         {("Lung Opacity", P, "left apical zone"), ("Lung Opacity", P, "right apical zone")}),
        ("There is right hilar lymphadenopathy.", {("Lung Lesion", U, "right hilar structures")}),
        ("Bilateral pleural effusions.", {("Pleural Effusion", P, "whole lung")}),
        ("Effusions, left greater than right.", {("Pleural Effusion", P, "whole lung")}),
        ("The trachea is midline.", {("No Finding", P, "trachea")}),
        ("The trachea is not midline.", {(None, P, "trachea")}),
        ("The lungs are clear.", {("Lung Opacity", N, "whole lung")}),
        ("The lungs are otherwise clear.", {("Lung Opacity", N, "whole lung")}),
        ("Degenerative changes of the thoracic spine.", {("No Finding", P, "spine")}),
        ("Hyperinflated lungs.", {(None, P, "whole lung")}),
        ("No free air under the diaphragm.", {("No Finding", P, "abdomen")}),
        ("The aorta is tortuous.", {("Enlarged Cardiomediastinum", U, "mediastinum")}),
        ("Old left rib fractures.", {("Fracture", P, "left lung")}),
        ("A pacemaker is seen over the left chest.", {("Support Devices", P, "cardiac silhouette")}),
        ("Words that no table knows.", {(None, P, None)}),
    ],
)  # fmt: skip
def test_a_sentence_has_diseases_with_their_sign_and_a_region(
    sentence: str, expected: set[tuple[str | None, Status, str | None]]
) -> None:
    chains = shipped().sentence_chains(sentence)
    assert {(chain.disease, chain.disease_status, chain.region) for chain in chains} == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The heart is normal in size and the lungs are clear.",
         [("Cardiomegaly", "cardiac silhouette"), ("Lung Opacity", "whole lung")]),
        ("Right pleural effusion and left pneumothorax.",
         [("Pleural Effusion", "right lung"), ("Pneumothorax", "left lung")]),
        ("Right effusion, left nodule.", [("Pleural Effusion", "right lung"), ("Lung Lesion", "left lung")]),
    ],
)  # fmt: skip
def test_each_finding_of_a_sentence_has_its_own_region(sentence: str, expected: list[tuple[str, str]]) -> None:
    assert [(chain.disease, chain.region) for chain in shipped().sentence_chains(sentence)] == expected


@pytest.mark.parametrize("sentence", ["The heart is unchanged.", "Stable mediastinal contours.", "This is unchanged."])
def test_what_is_unchanged_is_not_therefore_normal(sentence: str) -> None:
    assert [chain.disease for chain in shipped().sentence_chains(sentence)] == [None]


def test_the_answer_holds_what_is_asserted_and_not_what_it_might_mean() -> None:
    response = shipped().response("Low lung volumes. Left effusion. Thoracic spondylosis. No edema.")
    assert response.endswith("<answer>Pleural Effusion</answer>")
    assert "low" not in response.split("<answer>")[1]
    assert "Low lung volumes -> volume loss -> possible Atelectasis -> whole lung" in response
    assert shipped().response("Thoracic spondylosis.").endswith("<answer>none</answer>")


def test_a_chain_is_written_with_the_sign_of_its_links() -> None:
    denied = shipped().sentence_chains("No cardiomegaly.")[0]
    assert (
        denied.words() == "No cardiomegaly -> no enlarged cardiac silhouette -> no Cardiomegaly -> cardiac silhouette"
    )
    doubted = shipped().sentence_chains("Possible pneumonia in the left lower lobe.")[0]
    assert doubted.words().endswith("-> possible infection of the lung -> possible Pneumonia -> left lung")
    assert Chain("Words.", None, P, None, None, P, None).words() == "Words"


def test_sentences_about_the_examination_are_told_apart() -> None:
    table = shipped()
    assert not table.is_finding("PA and lateral views of the chest were obtained.")
    assert table.is_finding("Lateral view shows a small effusion.")


@given(st.text(max_size=300))
def test_any_text_is_mapped_onto_the_banks_and_no_sentence_is_lost(text: str) -> None:
    chains = shipped().chains(text)
    assert {chain.disease for chain in chains} <= {*DISEASES, None}
    assert {chain.region for chain in chains} <= {*REGIONS, None}
    assert list(dict.fromkeys(chain.sentence for chain in chains)) == list(dict.fromkeys(split_sentences(text)))


def test_a_report_without_findings_teaches_its_chains(tmp_path: Path) -> None:
    report = "The heart is enlarged. No effusion. Possible pneumonia."
    study = Study(
        id="a", patient_id="a", image=tmp_path / "a.png", width=10, height=10, report=report, source="iu-xray"
    )
    (example,) = concept_examples_of(study)
    answer = parse_answer(example.response, 10, 10)
    assert (
        answer.think.split("; ")[0]
        == "The heart is enlarged -> enlarged cardiac silhouette -> Cardiomegaly -> cardiac silhouette"
    )
    assert "no Pleural Effusion" in answer.think
    assert example.response.endswith("<answer>Cardiomegaly</answer>")


def test_thinking_before_a_report_holds_the_whole_report() -> None:
    example = thinking_example(shipped(), "CXR1", "Heart size is normal.")
    assert example["response"].endswith("</think><answer>Heart size is normal.</answer>")
    assert example["table_version"] == shipped().version


def test_a_radiologist_adds_a_finding_in_a_file_of_her_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'version = "mine-1"\nextends = "shipped"\n'
        '[finding."dense bone island"]\ndisease = "Lung Lesion"\nvia = "bone island"\nregion = "spine"\n'
        'phrases = ["enostosis"]\n'
    )
    table = load_concepts(path)
    assert table.version == "mine-1"
    (chain,) = table.sentence_chains("No enostosis.")
    assert (chain.disease, chain.status, chain.region) == ("Lung Lesion", N, "spine")
    assert table.sentence_chains("Heart is enlarged.")[0].disease == "Cardiomegaly"


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("version = ", 0, "not TOML"),
        ('version = "1"', 1, "extends"),
        ('[finding.a]\nvia = "x"', 1, "version: is missing"),
        ('version = "1"\n[finding.a]\ndisease = "Cold"', 3, "'Cold' is unknown; use one of: No Finding"),
        ('version = "1"\n[finding.b]\nregion = "lung"\n[finding.a]\nregion = "toe"', 5, "'toe' is unknown"),
        ('version = "1"\n[finding.a]\nfrases = []', 3, "finding.a.frases: is no key"),
        ('version = "1"\n[finding.a]\nphrases = "x"', 3, "is no list"),
        ('version = "1"\n[finding."a b"]\nphrases = [\n  "x",\n  "T12",\n]', 5, "'T12' is no phrase"),
        ('version = "1"\n[finding.a]\njoined = ["lung + wet"]', 3, "'wet' is no group; add it under"),
        ('version = "1"\nextends = "shipped"\n[place]\ntoe = ["x"]', 4, "place.toe"),
        ('version = "1"\nextends = "shipped"\n[cue]\nhopes = ["x"]', 4, "hopes: is no cue; use one of: denies"),
        ('version = "1"\nextends = "shipped"\n[reference]\nMass = ["lump"]', 4, "'lump' is no finding"),
        ('version = "1"\nwat = 1\n[finding]', 2, "wat: is no key"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_with_its_line(tmp_path: Path, text: str, line: int, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(told)) as error:
        load_concepts(path)
    assert str(error.value).startswith(f"{path}:{line}: " if line else f"{path}: ")


def test_a_table_of_ones_own_adds_phrases_and_replaces_a_disease(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'version = "2"\nextends = "shipped"\n[finding.emphysema]\ndisease = "Lung Lesion"\nphrases = ["swiss cheese"]\n'
        '[finding.granuloma]\ndisease = "none"\n'
    )
    table = load_concepts(path)
    assert [c.disease for c in table.chains("Emphysema. Swiss cheese. Granuloma.")] == ["Lung Lesion"] * 2 + [None]
    assert table.chains("Emphysema.")[0].via == shipped().chains("Emphysema.")[0].via


def test_mcl_and_its_tokenizer_read_reports_with_the_table_of_the_config(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('version = "2"\nextends = "shipped"\n[finding.gizmo]\ndisease = "Fracture"\nphrases = ["gizmo"]\n')
    table = load_concepts(path)
    study = Study(id="a", patient_id="a", image=tmp_path / "a.png", width=9, height=9, report="A gizmo.", source="x")
    (example,) = mcl_examples([study], 1, config=MCLConfig(grounding_share=0), seed=0, table=table)
    assert example.response.endswith("<answer>Fracture</answer>")
    assert example.response in corpus([study], table=table)
    assert example.response not in corpus([study])


@needs_reports
def test_real_reports_are_covered_also_those_that_were_not_read_for_the_table() -> None:
    """Reports whose id has an odd SHA-256 were not looked at while the table was written."""
    reports = list(read_findings(SHARED))
    unread = [report for report in reports if is_unread(report.id)]
    for some in (reports, unread):
        coverage = measure(shipped(), some)
        assert coverage.disease_share >= 0.90
        assert coverage.region_share >= 0.95


@needs_reports
def test_labels_agree_with_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = read_reference(next(SHARED.glob("negbio_labels*.csv")))
    coverage = measure(shipped(), read_findings(SHARED), reference)
    for label in ("Atelectasis", "Cardiomegaly", "Consolidation", "Effusion", "Emphysema", "Pneumonia"):
        f1 = coverage.agreement[label].f1
        assert f1 is not None
        assert f1 > 0.85, label
    # What a disease is derived from is more than what a label names; these are the same thing in both.
    for label, least in {
        "Atelectasis": 0.9,
        "Cardiomegaly": 0.9,
        "Effusion": 0.85,
        "Pneumonia": 0.8,
        "Edema": 0.75,
    }.items():
        f1 = coverage.disease_agreement[label].f1
        assert f1 is not None
        assert f1 > least, label
    concepts(SHARED, None, None, 3, tmp_path / "out", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["disease_share"] >= 0.9
    concepts(SHARED, None, None, 3, None, as_csv=True, unread=True)
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    # A sentence of the unread half that is shown would have been read.
    assert {row["section"] for row in rows} == told.keys() - {"without_disease", "without_region"}
    assert float(next(row["value"] for row in rows if row["section"] == "reports")) < 0.6 * told["reports"]
    lines = (tmp_path / "out" / "chains.jsonl").read_text().splitlines()
    assert len(lines) > told["sentences"]
    assert {"sentence", "finding", "sign", "via", "disease", "region", "table_version"} <= json.loads(lines[0]).keys()
