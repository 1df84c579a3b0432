"""The cuts by example; test_peer.py compares them with the package's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rewards.radgraph.words import MAX_CHARACTERS, VARIANTS, words_of


def test_radgraph_cuts_around_its_eight_signs_and_nowhere_else():
    assert words_of("No effusion/edema (stable): 1.5cm, well-defined; x", "radgraph") == [
        "No", "effusion", "/", "edema", "(", "stable", ")", ":", "1", ".", "5cm", ",", "well-defined;", "x"
    ]  # fmt: skip


def test_radgraph_xl_cuts_signs_from_letters_and_some_signs_from_each_other():
    assert words_of("Well-defined (5%). It's\nnormal.\\n50%, \\\"so", "radgraph-xl") == [
        "Well", "-", "defined", "(", "5", "%", ")", ".", "It", "'", "s", "normal", ".", "50", "%", ",", "``", "so"
    ]  # fmt: skip
    assert words_of("so...)?! ok", "radgraph-xl") == ["so", "...)?!", "ok"]


@given(st.text())
def test_no_text_loses_a_letter_or_crashes(text: str):
    for variant in VARIANTS:
        words = words_of(text, variant)
        assert all(words)
        assert not any(letter.isspace() for word in words for letter in word)
    clean = text.encode("utf-8", "replace").decode()
    assert "".join(words_of(text, "radgraph")) == "".join(clean.split())


def test_text_beyond_the_limit_is_not_read():
    assert words_of("a" * MAX_CHARACTERS + " effusion", "radgraph") == ["a" * MAX_CHARACTERS]


def test_half_a_surrogate_pair_is_a_question_mark():
    assert words_of("no \ud800 edema", "radgraph") == ["no", "?", "edema"]
