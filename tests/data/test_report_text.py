from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxmed_ray.data.report_text import clean_report, decode_report, findings_of

BODY = "Heart size is normal. Lungs are clear."


@pytest.mark.parametrize(
    "header",
    [
        "FINDINGS:", "FINDINGS: ", "Findings:", "findings:", "  FINDINGS :", "FINDING:", "FINDINGS\n",
        "FINDINGS/IMPRESSION:",
        "FINDINGS AND IMPRESSION:", "FINDINGS / IMPRESSION:", "FINDNGS:", "FIDNINGS:", "FINSINGS:", "FINDINGDS:",
        "FINIDNGS:", "CHEST FINDINGS:", "FINDING(S):", "FINDINGS AND RECOMMENDATION:",
        "PA AND LATERAL CHEST RADIOGRAPH:",
        "PERTINENT FINDINGS:", "FINDINGS  ", "PA AND LATERAL CHEST, ___:", "AP CHEST, 4:10 A.M., ___:",
        "CHEST, TWO VIEWS:", "PORTABLE AP CHEST RADIOGRAPH:", "SINGLE AP VIEW OF THE CHEST:", "CHEST (PORTABLE AP):",
    ],
)  # fmt: skip
@pytest.mark.parametrize("rest", ["\n \n IMPRESSION: \n \n Normal.", "\nConclusion: Normal.", "\n IMORESSION: x", ""])
def test_every_spelling_of_the_header_opens_the_findings(header: str, rest: str) -> None:
    report = (
        f"                 FINAL REPORT\n EXAMINATION: CHEST\n \n INDICATION: ___F // eval\n \n {header} {BODY}{rest}"
    )
    assert findings_of(report) == BODY


@pytest.mark.parametrize(
    "header",
    ["IMPRESSION:", "IMPRESSION", "CONCLUSION:", "COMPARISON:", "RECOMMENDATION(S):", "NOTIFICATION:", "TECHNIQUE:",
     "CLINICAL HISTORY:", "REASON FOR EXAM:", "WET READ:", "ADDENDUM:", "IMPRESSON:", "COMPARSION:", "NOTE:",
     "CONCUSION:", "FINAL IMPRESSION:", "IMPRESSION AND RECOMMENDATIONS:", "COMPARISON STUDIES:",
     "FINDINGS WERE DISCUSSED WITH DR. ___ AT:"],
)  # fmt: skip
def test_another_section_ends_them(header: str) -> None:
    assert findings_of(f"FINDINGS: {BODY}\n {header}\n Something else.") == BODY


@pytest.mark.parametrize(
    "header", ["LUNGS:", "Lungs:", "HEART AND MEDIASTINUM:", "Right shoulder:", "TUBES/LINES:", "Note:"]
)
def test_a_header_inside_them_stays(header: str) -> None:
    text = f"FINDINGS:\n {header} clear.\n Bones: intact.\nIMPRESSION: None."
    assert findings_of(text) == f"{header} clear. Bones: intact."


def test_a_view_inside_them_is_a_part_of_them() -> None:
    assert findings_of("FINDINGS:\n CHEST: clear.\n ABDOMEN: normal.") == "CHEST: clear. ABDOMEN: normal."


def test_all_on_one_line_is_read() -> None:
    report = f"CHEST RADIOGRAPH HISTORY: Cough. COMPARISON: None. FINDINGS: {BODY} IMPRESSION: Normal."
    assert findings_of(report) == BODY
    assert findings_of(f"FINDINGS: {BODY} Pression: Normal.") == BODY


@pytest.mark.parametrize(
    "report",
    ["", "FINDINGS:", "FINDINGS: ___.", "FINDINGS: XXXX", "IMPRESSION: Normal.", "Normal chest.",
     "FINDINGS:\n IMPRESSION: Normal.", "INDICATION: FINDINGS of pneumonia on CT"],
)  # fmt: skip
def test_a_report_without_findings_has_none(report: str) -> None:
    assert findings_of(report) is None


RULE = "_" * 78


@pytest.mark.parametrize(
    "report",
    [
        f"                  FINAL REPORT\n ADDENDUM:  FINDINGS: A nodule was missed.\n {RULE}\n         FINAL REPORT\n"
        f" FINDINGS: {BODY}\n IMPRESSION: Normal.",
        f" FINDINGS: {BODY}\n IMPRESSION: Normal.\n {RULE}\n         FINAL ADDENDUM\n ADDENDUM  FINDINGS: A nodule.",
        f" ADDENDUM: Discussed with Dr. ___ at 3 pm.\n EXAMINATION: CHEST\n FINDINGS: {BODY}\n IMPRESSION: Normal.",
        f" WET READ: ___ ___ 9:33 PM\n  Lines. FINDINGS: Wet.\n {RULE}\n       FINAL REPORT\n FINDINGS: {BODY}",
        f" ADDENDUM #1: A nodule.\n            FINAL REPORT\n FINDINGS: {BODY}",
    ],
)
def test_an_addendum_is_no_part_of_them(report: str) -> None:
    assert findings_of(report) == BODY


def test_several_findings_sections_follow_each_other_and_repeated_ones_count_once() -> None:
    report = f"FINDINGS: {BODY}\nIMPRESSION: Normal.\nFINDINGS: Ribs are intact.\nFINDINGS: {BODY}"
    assert findings_of(report) == f"{BODY} Ribs are intact."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Normal chest x-XXXX.", "Normal chest x-ray."),
        ("X-XXXX shows a dual-XXXX pacemaker (XXXX).", "X-ray shows a dual pacemaker."),
        ("Heart XXXX, mediastinum, XXXX, are normal.", "Heart, mediastinum, are normal."),
        ("Compared to ___, the ___ cm nodule (___, ___) is unchanged.", "Compared to, the cm nodule is unchanged."),
        ("Seen by [**Last Name (un) 1234**] today.", "Seen by today."),
        ("XXXX/granulomas. XXXX-filled. XXXX's.", "granulomas. filled."),
        ("1. Heart is normal.\n 2) Lungs are clear.", "Heart is normal. Lungs are clear."),
        ("A 2.5 cm nodule, <5 mm before, T8-T9, 50%.", "A 2.5 cm nodule, <5 mm before, T8-T9, 50%."),
        ("Tube\t at\x0b 3\u00a0cm \u2013 \u201cok\u201d \u2022 done\x00", 'Tube at 3 cm "ok" done'),
        ("previously<BR>described & <stable", "previously described stable"),
        ("No effusion.Heart  is normal .. Clear . ,", "No effusion. Heart is normal. Clear."),
        ("Épanchement pleural à droite, 35°.", "Épanchement pleural à droite, 35°."),
        ("___ .", ""),
    ],
)
def test_marks_and_stray_characters_go_with_what_they_leave_behind(text: str, expected: str) -> None:
    assert clean_report(text) == expected


@given(st.text(alphabet=st.sampled_from("aB x-/_X.,;:()[]*<>'\"&1\n\t\u00a0\u2013é"), max_size=60))
def test_clean_text_stays_as_it_is(text: str) -> None:
    cleaned = clean_report(text)
    assert clean_report(cleaned) == cleaned
    assert cleaned == " ".join(cleaned.split())
    assert "___" not in cleaned


@given(st.text(max_size=300))
def test_no_text_can_crash_the_sections(text: str) -> None:
    found = findings_of(f"FINDINGS: {text}")
    assert found is None or any(character.isalpha() for character in found)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("caf\u00e9".encode(), "café"),
        ("caf\u00e9".encode("utf-8-sig"), "café"),
        ("caf\u00e9 \u2013".encode("cp1252"), "café –"),
        ("caf\u00e9".encode("utf-16"), "café"),
        (b"a\x81\x8d\xff", "a  ÿ"),
    ],
)
def test_reports_in_other_encodings_are_read(data: bytes, expected: str) -> None:
    assert decode_report(data) == expected
