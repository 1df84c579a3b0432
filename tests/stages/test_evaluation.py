"""What is asked of held-out images, and that records come back from disk as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxmed_ray.config import RunConfig
from boxmed_ray.data.phantom import make_phantom
from boxmed_ray.data.study import Study
from boxmed_ray.evaluate.grounding import GroundingRecord
from boxmed_ray.stages.evaluation import grounding_questions, load_records, save_records


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    folder = tmp_path_factory.mktemp("phantoms")
    return [make_phantom(index, 3, "test", folder) for index in range(20)]


def test_every_finding_with_a_box_is_asked_and_one_denial_an_image(studies: list[Study]) -> None:
    questions = grounding_questions(studies, RunConfig())
    with_boxes = [study for study in studies if any(finding.boxes for finding in study.findings)]
    boxes = sum(1 for study in with_boxes for finding in study.findings if finding.boxes)
    denials = sum(any(not finding.boxes for finding in study.findings) for study in with_boxes)
    assert sum(bool(question.prompt.targets) for question in questions) == boxes
    assert sum(not question.prompt.targets for question in questions) == denials
    assert len({question.prompt.id for question in questions}) == len(questions)


def test_no_more_images_than_the_config_says_are_asked_about(studies: list[Study]) -> None:
    config = RunConfig.model_validate({"evaluate": {"images": 3}})
    assert len({question.prompt.study_id for question in grounding_questions(studies, config)}) == 3


def test_records_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    box = (1.0, 2.0, 3.5, 4.25)
    records = [
        GroundingRecord("a", "s", "Edema", 10, 20, (box,), (box, box), True, ((box,), None), (True, False), "text"),
        GroundingRecord("b", "s", "No Finding", 10, 20, (), (), True, ((),), (True,), "none"),
        GroundingRecord("c", "s", "Edema", 10, 20, (box,), None, False),
    ]
    save_records(records, tmp_path / "evaluation" / "x.jsonl")
    assert load_records(tmp_path / "evaluation" / "x.jsonl") == records
