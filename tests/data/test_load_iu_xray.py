from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from boxmed_ray.data.load import Dataset
from boxmed_ray.data.readers import SkippedStudy
from boxmed_ray.data.readers.files import DataFolder
from boxmed_ray.data.readers.iu_xray import OpenIReport, parse_report, read_reports
from boxmed_ray.data.report_text import clean_report
from boxmed_ray.data.study import DataError
from tests.data.conftest import Read, write_image

FINDINGS = "The heart is XXXX normal.\n  Lungs are clear."


def xml(number: int, findings: str = FINDINGS, images: int = 2, head: str = "") -> str:
    """A report as Open-i writes it, with what is not read left out."""
    parents = "".join(
        f'<parentImage id="CXR{number}_1_IM-0001-{view}001"><figureId>F1</figureId><caption>PA</caption></parentImage>'
        for view in (3, 4)[:images]
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?>{head}<eCitation><meta type="rr"/><uId id="CXR{number}"/>'
        '<MedlineCitation Owner="Indiana University"><Article PubModel="Electronic"><Abstract>'
        '<AbstractText Label="COMPARISON">None.</AbstractText>'
        '<AbstractText Label="INDICATION">XXXX-year-old</AbstractText>'
        f'<AbstractText Label="FINDINGS">{findings}</AbstractText>'
        '<AbstractText Label="IMPRESSION">Normal chest x-XXXX.</AbstractText>'
        f"</Abstract></Article></MedlineCitation>{parents}</eCitation>"
    )


def root_with(tmp_path: Path, packed: bool = False, **members: str | bytes) -> Path:
    """Eight patients' reports and images, and ``members`` by the number of a report."""
    root = tmp_path / "iu"
    texts: dict[str, str | bytes] = {str(number): xml(number) for number in range(1, 9)}
    texts |= {name.removeprefix("r"): text for name, text in members.items()}
    for number in texts:
        for view in (3, 4):
            write_image(root / f"NLMCXR_png/CXR{number}_1_IM-0001-{view}001.png", 32, 40)
    if packed:
        pack(root / "NLMCXR_reports.tgz", {f"ecgen-radiology/{name}.xml": text for name, text in texts.items()})
        return root
    (root / "ecgen-radiology").mkdir()
    for name, text in texts.items():
        data = text.encode() if isinstance(text, str) else text
        (root / f"ecgen-radiology/{name}.xml").write_bytes(data)
    return root


def pack(path: Path, members: dict[str, str | bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            data = text.encode() if isinstance(text, str) else text
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("packed", [False, True])
def test_every_image_has_the_findings_of_its_report(tmp_path: Path, load: Callable[..., Dataset], packed: bool) -> None:
    root = root_with(tmp_path, packed, r9=xml(9, findings=""), r10=xml(10, images=0))
    dataset = load("iu-xray", root)
    assert len(dataset.studies) == 16
    first = next(study for study in dataset.studies if study.id == "CXR1_1_IM-0001-3001")
    assert (first.patient_id, first.source, first.width, first.height) == ("CXR1", "iu-xray", 32, 40)
    assert first.report == "The heart is normal. Lungs are clear."
    splits = {
        study.patient_id: {s.split for s in dataset.studies if s.patient_id == study.patient_id}
        for study in dataset.studies
    }
    assert all(len(of_patient) == 1 for of_patient in splits.values())
    assert {(item.id, item.by_rule) for item in dataset.skipped} == {("CXR9", True), ("CXR10", True)}
    assert "has no findings" in next(item.reason for item in dataset.skipped if item.id == "CXR9")


def test_a_missing_image_is_named(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    root = root_with(tmp_path)
    (root / "NLMCXR_png/CXR2_1_IM-0001-4001.png").unlink()
    with pytest.raises(DataError, match=r"2\.xml: parentImage: no image named 'CXR2_1_IM-0001-4001'"):
        load("iu-xray", root)


def test_reports_without_any_image_are_refused_at_once(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    root = root_with(tmp_path)
    (root / "NLMCXR_png").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"no image below it; unpack NLMCXR_png\.tgz there"):
        load("iu-xray", root)


def test_missing_reports_are_named(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    write_image(tmp_path / "iu/a.png")
    with pytest.raises(DataError, match=r"no NLMCXR_reports\.tgz"):
        load("iu-xray", tmp_path / "iu")


ENTITY = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
FILE = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (xml(1, findings="&b;", head=ENTITY), "declares a document type or an entity"),
        (xml(1, findings="&f;", head=FILE), "declares a document type or an entity"),
        (xml(1, head='<!DOCTYPE x SYSTEM "http://localhost/x.dtd">'), "declares a document type or an entity"),
        (xml(1)[:-30], "not readable as XML"),
        (xml(1).replace('<uId id="CXR1"/>', ""), "uId: has no id"),
        ("", "not readable as XML"),
        ("<a>" + " " * 4_000_001, "more than 4000000 bytes"),
    ],
)
def test_hostile_or_damaged_xml_is_left_out_with_its_reason(text: str, expected: str) -> None:
    report = parse_report(text.encode(), "ecgen-radiology/1.xml")
    assert isinstance(report, SkippedStudy)
    assert not report.by_rule
    assert "ecgen-radiology/1.xml: " in report.reason
    assert expected in report.reason
    assert "root:" not in report.reason


def test_xml_in_another_encoding_than_it_declares_is_read() -> None:
    report = parse_report(xml(1, findings="35\xb0 tilt \x96 normal.").encode("latin-1"), "1.xml")
    assert isinstance(report, OpenIReport)
    assert report.findings == "35° tilt normal."


def test_members_of_an_archive_that_leave_it_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "NLMCXR_reports.tgz"
    pack(path, {"../../evil.xml": xml(1), "/tmp/evil.xml": xml(2), "ecgen-radiology/3.xml": xml(3), "readme.txt": "x"})
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        link = tarfile.TarInfo("ecgen-radiology/4.xml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    read = list(read_reports(DataFolder(tmp_path)))
    assert [item.id for item in read if isinstance(item, OpenIReport)] == ["CXR3"]
    reasons = [item.reason for item in read if isinstance(item, SkippedStudy)]
    assert len(reasons) == 2
    assert all("a link or a path outside the archive" in reason for reason in reasons)
    path.unlink()
    (tmp_path / "links.tar").rename(tmp_path / "NLMCXR_reports.tar")
    (linked,) = read_reports(DataFolder(tmp_path))
    assert isinstance(linked, SkippedStudy)
    assert not list(tmp_path.rglob("*.xml")), "nothing of an archive reaches the disk"


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from boxmed_ray.data.readers import iu_xray

    pack(tmp_path / "NLMCXR_reports.tgz", {f"ecgen-radiology/{i}.xml": xml(i) + " " * 100_000 for i in range(5)})
    monkeypatch.setattr(iu_xray, "MAX_ARCHIVE", 300_000)
    with pytest.raises(DataError, match=r"NLMCXR_reports\.tgz: unpacks to more than 300000 bytes"):
        list(read_reports(DataFolder(tmp_path)))


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "NLMCXR_reports.tgz"
    pack(path, {f"ecgen-radiology/{i}.xml": xml(i) for i in range(50)})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a readable archive"):
        list(read_reports(DataFolder(tmp_path)))


def test_the_shared_annotation_is_read(tmp_path: Path, read: Read) -> None:
    names = ["CXR2384_IM-0942/0.png", "CXR2384_IM-0942/1.png"]
    for name in names:
        write_image(tmp_path / "images" / name)
    entry = {"id": "CXR2384_IM-0942", "report": "The heart is\nnormal .", "image_path": names}
    empty = {"id": "CXR1_IM-0001", "report": " XXXX.", "image_path": names[:1]}
    (tmp_path / "annotation.json").write_text(json.dumps({"train": [], "val": [empty], "test": [entry]}))
    studies, skipped = read("iu-xray", tmp_path)
    assert list(studies) == ["CXR2384_IM-0942_0", "CXR2384_IM-0942_1"]
    study = studies["CXR2384_IM-0942_1"]
    assert (study.patient_id, study.split, study.report) == ("CXR2384", "test", "The heart is normal.")
    assert study.image == tmp_path / "images" / names[1]
    assert skipped["CXR1_IM-0001"].by_rule


def test_another_entrys_image_is_never_taken_for_a_missing_one(tmp_path: Path, read: Read) -> None:
    """All of them are called 0.png and 1.png."""
    write_image(tmp_path / "images/CXR1_IM-0001/0.png")
    entries = [
        {"id": name, "report": "Clear.", "image_path": [f"{name}/0.png"]} for name in ("CXR1_IM-0001", "CXR2_IM-2")
    ]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": entries}))
    studies, skipped = read("iu-xray", tmp_path)
    assert list(studies) == ["CXR1_IM-0001"]
    assert "no image 'CXR2_IM-2/0.png'" in skipped["CXR2_IM-2"].reason
    # A name that one entry alone has is enough.
    entries[1]["image_path"] = ["CXR2_IM-2/frontal.png"]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": entries}))
    moved = write_image(tmp_path / "elsewhere/frontal.jpg")
    assert read("iu-xray", tmp_path)[0]["CXR2_IM-2"].image == moved


def test_all_of_open_i_is_read(shared_data: Path) -> None:
    """3,955 reports, of which the published counts have 104 without an image."""
    reports = list(read_reports(DataFolder(shared_data / "iu-xray")))
    assert len(reports) == 3955
    good = [report for report in reports if isinstance(report, OpenIReport)]
    assert len(good) == 3955
    assert sum(not report.images for report in good) == 104
    assert sum(len(report.images) for report in good) == 7470
    findings = [text for report in good if (text := report.findings)]
    assert len(findings) == 3425
    for text in findings:
        assert "XXXX" not in text
        assert clean_report(text) == text
        assert text == " ".join(text.split())
        assert not set(text) & set("_<>\n\t")
