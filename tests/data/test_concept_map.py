"""The mapping of free text onto the banks: by hand on sentences, its table's errors, and Open-i as it was published."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxmed_ray.commands.data_concepts import concepts, read_findings, thinking_example
from boxmed_ray.data.concept_coverage import measure, read_reference
from boxmed_ray.data.concept_map import Chain, load_concepts, shipped, split_sentences
from boxmed_ray.data.examples import concept_examples_of
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
        ("Lungs are low in volume.", {("Atelectasis", P, "whole lung")}),  # the paper's own example, §3.2.1
        ("There is a right lower lobe opacity.", {("Lung Opacity", P, "right lung")}),
        ("No pneumothorax or pleural effusion.",
         {("Pneumothorax", N, "whole lung"), ("Pleural Effusion", N, "whole lung")}),
        ("Possible left basilar atelectasis.", {("Atelectasis", U, "left lung")}),
        ("Heart size is normal.", {("Cardiomegaly", N, "cardiac silhouette")}),
        ("The heart is enlarged.", {("Cardiomegaly", P, "cardiac silhouette")}),
        ("Small left apical pneumothorax.", {("Pneumothorax", P, "left apical zone")}),
        ("There is right hilar lymphadenopathy.", {("Enlarged Cardiomediastinum", P, "right hilar structures")}),
        ("Bilateral pleural effusions.", {("Pleural Effusion", P, "whole lung")}),
        ("The trachea is midline.", {("Enlarged Cardiomediastinum", N, "trachea")}),
        ("The lungs are clear.", {("Lung Opacity", N, "whole lung")}),
        ("Degenerative changes of the thoracic spine.", {(None, P, "spine")}),
        ("No free air under the diaphragm.", {("No Finding", N, "abdomen")}),
        ("Old left rib fractures.", {("Fracture", P, "left lung")}),
        ("A pacemaker is seen over the left chest.", {("Support Devices", P, "whole lung")}),
        ("Words that no table knows.", {(None, P, None)}),
    ],
)  # fmt: skip
def test_a_sentence_has_diseases_with_their_sign_and_a_region(
    sentence: str, expected: set[tuple[str | None, Status, str | None]]
) -> None:
    chains = shipped().sentence_chains(sentence)
    assert {(chain.disease, chain.status, chain.region) for chain in chains} == expected


def test_a_chain_is_written_with_the_sign_of_its_links() -> None:
    denied = shipped().sentence_chains("No cardiomegaly.")[0]
    assert denied.words() == "No cardiomegaly -> no enlarged heart -> no Cardiomegaly -> cardiac silhouette"
    doubted = shipped().sentence_chains("Possible pneumonia in the left lower lobe.")[0]
    assert doubted.words().endswith("-> possible infection -> possible Pneumonia -> left lung")
    assert Chain("Words.", None, P, None, None, None).words() == "Words"


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
        answer.think.split("; ")[0] == "The heart is enlarged -> enlarged heart -> Cardiomegaly -> cardiac silhouette"
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
        'phrases = ["bone island"]\n'
    )
    table = load_concepts(path)
    assert table.version == "mine-1"
    (chain,) = table.sentence_chains("No bone island.")
    assert (chain.disease, chain.status, chain.region) == ("Lung Lesion", N, "spine")
    assert table.sentence_chains("Heart is enlarged.")[0].disease == "Cardiomegaly"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version = ", "not TOML"),
        ('version = "1"', "finding"),
        ('version = "1"\n[finding.a]\ndisease = "Cold"\nvia = "x"\nregion = "none"', "'Cold' is no disease"),
        ('version = "1"\n[finding.a]\ndisease = "none"\nvia = "x"\nregion = "toe"', "'toe' is no region"),
        ('version = "1"\n[finding.a]\ndisease = "none"', "lacks region, via"),
        ('version = "1"\n[finding.a]\ndisease = "none"\nvia = "x"\nregion = "none"\nfrases = []', "frases"),
        ('version = "1"\nwat = 1\n[finding]', "wat"),
        ('version = "1"\n[finding]\n[[place]]\nwords = ["x"]\nregion = "{side} lung"', "needs otherwise"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=told) as error:
        load_concepts(path)
    assert str(path) in str(error.value)


@needs_reports
def test_real_reports_are_covered_also_those_that_were_not_read_for_the_table() -> None:
    """Reports whose SHA-256 is odd were not looked at while the table was written."""
    reports = list(read_findings(SHARED))
    unread = [report for report in reports if int(hashlib.sha256(report.id.encode()).hexdigest(), 16) % 2]
    for some in (reports, unread):
        coverage = measure(shipped(), some)
        assert coverage.disease_share >= 0.90
        assert coverage.region_share >= 0.95


@needs_reports
def test_labels_agree_with_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = read_reference(next(SHARED.glob("negbio_labels*.csv")))
    agreement = measure(shipped(), read_findings(SHARED), reference).agreement
    for label in ("Atelectasis", "Cardiomegaly", "Consolidation", "Effusion", "Emphysema", "Pneumonia"):
        f1 = agreement[label].f1
        assert f1 is not None
        assert f1 > 0.85, label
    concepts(SHARED, None, None, 3, tmp_path / "out", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["disease_share"] >= 0.9
    lines = (tmp_path / "out" / "chains.jsonl").read_text().splitlines()
    assert len(lines) > told["sentences"]
    assert {"sentence", "finding", "sign", "via", "disease", "region", "table_version"} <= json.loads(lines[0]).keys()
