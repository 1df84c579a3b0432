"""Figures of reasoning by hand: links through the banks, free words of findings, malformed answers."""

from __future__ import annotations

import pytest

from boxmed_ray.data.prompts import concepts_response, parse_reasoning
from boxmed_ray.data.study import Finding
from boxmed_ray.evaluate.concept_figures import ConceptRecord, concept_figures

EFFUSION = Finding(phrase="Fluid at the base.", disease="Pleural Effusion", region="left lung")
HEART = Finding(phrase="The heart is large.", disease="Cardiomegaly", region="cardiac silhouette")
VAGUE = Finding(phrase="Something.", disease=None, region="spine")
TRUTH = concepts_response([EFFUSION, HEART])


def values(*generated: str, truth: str = TRUTH) -> dict[str, float]:
    return concept_figures([ConceptRecord(str(i), truth, text) for i, text in enumerate(generated)]).values()


def test_reading_inverts_writing() -> None:
    read = parse_reasoning(concepts_response([EFFUSION, HEART, VAGUE]))
    assert read.links == {("Pleural Effusion", "left lung"), ("Cardiomegaly", "cardiac silhouette"), (None, "spine")}
    assert read.diseases == {"Pleural Effusion", "Cardiomegaly"}
    assert read.well_formed
    assert parse_reasoning(concepts_response([])).links == frozenset()


@pytest.mark.parametrize("text", ["", "Cardiomegaly", "<think>a</think>", TRUTH + "x", "<think>" * 9000])
def test_anything_else_is_malformed_and_says_nothing(text: str) -> None:
    read = parse_reasoning(text)
    assert (read.links, read.diseases, read.well_formed) == (frozenset(), frozenset(), False)


def test_names_outside_the_banks_are_no_links() -> None:
    read = parse_reasoning("<think>x -> Flu -> left knee; Edema</think><answer>Flu, Edema</answer>")
    assert read.links == frozenset()
    assert read.diseases == {"Edema"}


def test_a_chain_is_right_by_disease_and_region_whatever_its_words() -> None:
    other = concepts_response([EFFUSION.model_copy(update={"phrase": "Effusion."}), HEART])
    assert values(other)["chain_accuracy"] == 1.0
    wrong_side = concepts_response([EFFUSION.model_copy(update={"region": "right lung"}), HEART])
    found = values(wrong_side)
    assert (found["chain_f1"], found["chain_disease_f1"], found["chain_accuracy"]) == (0.5, 1.0, 0.0)


def test_means_are_over_studies_and_malformed_answers_count_against() -> None:
    found = values(TRUTH, concepts_response([HEART]), "no form")
    assert found["chain_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["chain_accuracy"] == pytest.approx(1 / 3)
    assert found["chain_malformed"] == pytest.approx(1 / 3)


def test_nothing_to_say_and_nothing_said_is_right_only_in_the_form() -> None:
    nothing = concepts_response([])
    assert values(nothing, truth=nothing)["chain_accuracy"] == 1.0
    assert values("garbage", truth=nothing)["chain_accuracy"] == 0.0
