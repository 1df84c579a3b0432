from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from boxmed_ray.config import MCLConfig
from boxmed_ray.data import examples
from boxmed_ray.data.prompts import Task
from boxmed_ray.data.study import Box, DataError, Finding, Study

NODULE = Finding(phrase="Nodule.", boxes=(Box(100, 50, 150, 100),), disease="Lung Lesion", region="left lung")
DENIED = Finding(phrase="No effusion.", disease="No Finding", region="whole lung")
DIFFUSE = Finding(phrase="Edema.", disease="Edema")


def study(name: str, *findings: Finding, report: str | None = None) -> Study:
    return Study(
        id=name, patient_id=name, image=Path(f"{name}.png"), width=200, height=100, report=report,
        findings=findings, source="made-up",
    )  # fmt: skip


STUDIES = [study(f"s{i}", NODULE, DENIED, DIFFUSE, report="Nodule. No effusion.") for i in range(10)]


def test_a_response_carries_concepts_and_permille_boxes() -> None:
    example = examples.ground_example(STUDIES[0], NODULE)
    assert example.prompt == "Locate in this chest X-ray: Nodule."
    assert example.response == "<think>Lung Lesion -> left lung</think><answer>[500, 500, 750, 1000]</answer>"
    assert example.boxes == NODULE.boxes


def test_a_denied_finding_is_answered_none() -> None:
    example = examples.ground_example(STUDIES[0], DENIED)
    assert example.response == "<think>No Finding -> whole lung</think><answer>none</answer>"
    assert example.boxes == ()


def test_what_is_diffuse_is_neither_located_nor_denied() -> None:
    one = study("one", DIFFUSE)
    assert examples.grounded_findings(one) == []
    assert examples.denied_findings(one) == []
    assert examples.stated_findings(one) == [DIFFUSE]


def test_no_finding_stands_in_an_answer_alone() -> None:
    assert DENIED not in examples.stated_findings(STUDIES[0])
    assert examples.stated_findings(study("clear", DENIED)) == [DENIED]


def test_a_box_that_two_diseases_of_one_phrase_share_is_asked_for_once() -> None:
    other = NODULE.model_copy(update={"disease": "Lung Opacity"})
    (merged,) = examples.grounded_findings(study("two", NODULE, other))
    assert merged.boxes == NODULE.boxes


def test_boxes_of_one_phrase_are_one_answer() -> None:
    other = NODULE.model_copy(update={"boxes": (Box(10, 10, 20, 20),), "region": "right lung"})
    (merged,) = examples.grounded_findings(study("two", NODULE, other))
    assert merged.boxes == NODULE.boxes + other.boxes
    assert merged.region is None


def test_shares_are_kept_over_many_examples() -> None:
    config = MCLConfig(grounding_share=0.7)
    made = examples.mcl_examples(STUDIES, 2000, config=config, seed=3, none_share=0.2)
    tasks = Counter(example.task for example in made)
    grounded = [example for example in made if example.task is Task.GROUND]
    assert tasks[Task.GROUND] / 2000 == pytest.approx(0.7, abs=0.04)
    assert sum(not e.boxes for e in grounded) / len(grounded) == pytest.approx(0.2, abs=0.04)


def test_examples_depend_on_seed_and_position_alone() -> None:
    def made(count: int, seed: int) -> list[examples.Example]:
        return examples.mcl_examples(STUDIES, count, config=MCLConfig(), seed=seed)

    assert made(40, 1) == made(100, 1)[:40]
    assert made(40, 1) != made(40, 2)
    prompts = examples.ground_prompts(STUDIES, 30, none_share=0.1, seed=1)
    assert prompts == examples.ground_prompts(STUDIES, 60, none_share=0.1, seed=1)[:30]


def test_every_finding_is_dealt_once_before_any_is_dealt_twice() -> None:
    made = examples.ground_prompts(STUDIES, 20, none_share=0.0, seed=5)
    assert len({example.id for example in made[:10]}) == 10
    assert len({example.id for example in made[10:]}) == 10


def test_a_noisy_box_is_the_same_in_every_epoch_and_targets_stay_exact() -> None:
    config = MCLConfig(grounding_share=1.0, noisy_box_share=1.0)
    made = examples.mcl_examples(STUDIES, 40, config=config, seed=0, none_share=0.0)
    assert len({(example.id, example.response) for example in made}) == len(STUDIES)
    assert all(example.boxes == NODULE.boxes for example in made)
    assert all("[500, 500, 750, 1000]" not in example.response for example in made)


def test_without_noise_boxes_are_exact() -> None:
    config = MCLConfig(grounding_share=1.0, noisy_box_share=0.0)
    made = examples.mcl_examples(STUDIES, 10, config=config, seed=0, none_share=0.0)
    assert all("[500, 500, 750, 1000]" in example.response for example in made)


def test_jitter_has_the_spread_that_was_asked_for_and_keeps_boxes_upright() -> None:
    rng, box = random.Random(0), Box(400, 400, 600, 500)
    drawn = [examples.jitter_box(box, 1000, 1000, 0.15, rng) for _ in range(4000)]
    spread = (sum((d.x1 - box.x1) ** 2 for d in drawn) / len(drawn)) ** 0.5
    assert spread == pytest.approx(0.15 * 200, rel=0.05)
    wild = [examples.jitter_box(Box(0, 0, 10, 10), 10, 10, 1.0, rng) for _ in range(1000)]
    assert all(0 <= b.x1 < b.x2 <= 10 and 0 <= b.y1 < b.y2 <= 10 for b in wild)


@pytest.mark.parametrize(("coordinates", "inside"), [("permille", "500, 500"), ("pixel", "56, 56"), ("unit", "0.500")])
def test_reading_inverts_writing_in_every_coordinate_system(coordinates: examples.Coordinates, inside: str) -> None:
    example = examples.ground_example(STUDIES[0], NODULE, coordinates, side=112)
    assert inside in example.response
    answer = examples.read_answer(example.response, STUDIES[0], coordinates, side=112)
    assert answer.well_formed
    assert answer.boxes is not None
    # Half a pixel of the square is 0.9 pixels across the stored 200.
    assert answer.boxes[0] == pytest.approx(NODULE.boxes[0], abs=0.9)


def test_pixel_coordinates_without_a_side_are_refused() -> None:
    with pytest.raises(ValueError, match="side"):
        examples.ground_example(STUDIES[0], NODULE, "pixel")


def test_reports_are_asked_for_and_answered_plainly() -> None:
    made = examples.report_examples([*STUDIES, study("mute", NODULE)], 22, seed=0)
    assert {example.response for example in made} == {"Nodule. No effusion."}
    assert all(example.study.id != "mute" for example in made)


def test_studies_without_what_a_stage_needs_are_refused_with_a_remedy() -> None:
    bare = [study("bare")]
    with pytest.raises(DataError, match=r"finding with a box"):
        examples.ground_prompts(bare, 1, none_share=0, seed=0)
    with pytest.raises(DataError, match=r"mcl\.grounding_share=0"):
        examples.mcl_examples(bare, 1, config=MCLConfig(), seed=0)
    with pytest.raises(DataError, match=r"report.*data\.root"):
        examples.report_examples(bare, 1, seed=0)


def test_the_corpus_holds_every_text_a_stage_shows() -> None:
    corpus = set(examples.corpus(STUDIES))
    config = MCLConfig(noisy_box_share=0.0)
    for example in examples.mcl_examples(STUDIES, 50, config=config, seed=0, none_share=0.3):
        assert example.prompt in corpus
        assert example.response in corpus
