"""Evaluation by generation: the rollout pool answers held-out prompts, greedily and sampled.

What lives here: which prompts are asked, and from rollouts to records. What does not: asking
(generation.py), the metrics (evaluate/), the engines (actors/rollout.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.types import Group, Prompt, Rollout
from boxmed_ray.config import DataConfig, RunConfig
from boxmed_ray.data.concepts import label_of
from boxmed_ray.data.examples import Example, denied_findings, ground_example, grounded_findings, report_example
from boxmed_ray.data.prompts import Task, parse_answer
from boxmed_ray.data.study import Study
from boxmed_ray.evaluate.concept_figures import ConceptRecord
from boxmed_ray.evaluate.grounding import GroundingRecord
from boxmed_ray.stages.generation import generate
from boxmed_ray.whole_file import write_whole
from rewards.sample import BoxT

_NOTHING = Rollout(np.zeros(0, np.int64), np.zeros(0, np.float32), "length", 0, "")


def prompt_of(example: Example) -> Prompt:
    """The light form of an example, as actors take it."""
    study = example.study
    return Prompt(
        id=example.id,
        task=example.task,
        phrase=example.phrase,
        study_id=study.id,
        image=str(study.image),
        width=study.width,
        height=study.height,
        targets=example.boxes,
        target_text=study.report if example.task in (Task.REPORT, Task.JOINT) else None,
    )


@dataclass(frozen=True, slots=True)
class GroundingQuestion:
    """One held-out prompt and the label its result is counted under."""

    prompt: Prompt
    label: str


def grounding_questions(studies: Sequence[Study], config: RunConfig) -> list[GroundingQuestion]:
    """Every finding with a box, and the first denial, of the first ``evaluate.images`` studies that have a box."""
    questions = []
    with_boxes = [study for study in studies if grounded_findings(study)][: config.evaluate.images]
    for study in with_boxes:
        for finding in [*grounded_findings(study), *denied_findings(study)[:1]]:
            example = ground_example(study, finding, config.data.coordinates, config.data.image_size)
            questions.append(GroundingQuestion(prompt_of(example), label_of(finding)))
    return questions


def ask_grounding(
    pool: Pool, questions: Sequence[GroundingQuestion], config: RunConfig, *, lora: str | None = None
) -> list[GroundingRecord]:
    """Greedy and one sampled answer to every question."""
    prompts = [question.prompt for question in questions]
    tokens = config.svr.max_new_tokens
    greedy = generate(pool, prompts, config, n=1, greedy=True, max_new_tokens=tokens, lora=lora)
    sampled = generate(
        pool, prompts, config, n=1, temperature=config.evaluate.temperature, max_new_tokens=tokens, lora=lora
    )
    return [
        _record(question, _answers(first)[0], _answers(second), config.data)
        for question, first, second in zip(questions, greedy, sampled, strict=True)
    ]


def ask_reports(pool: Pool, studies: Sequence[Study], config: RunConfig, *, lora: str | None) -> list[str]:
    """One greedy report a study, by the adapter, or by the backbone where there is none."""
    prompts = [prompt_of(report_example(study)) for study in studies]
    groups = generate(pool, prompts, config, n=1, greedy=True, max_new_tokens=config.evaluate.report_tokens, lora=lora)
    return [_answers(group)[0].text.strip() for group in groups]


def ask_concepts(
    pool: Pool, examples: Sequence[Example], config: RunConfig, *, lora: str | None
) -> list[ConceptRecord]:
    """One greedy chain of reasoning an example; one that was cut off is malformed."""
    prompts = [prompt_of(example) for example in examples]
    groups = generate(pool, prompts, config, n=1, greedy=True, max_new_tokens=config.evaluate.concept_tokens, lora=lora)
    texts = [_answers(group)[0].text for group in groups]
    return [ConceptRecord(e.study.id, e.response, text) for e, text in zip(examples, texts, strict=True)]


def _answers(group: Group | None) -> Sequence[Rollout]:
    """Of a prompt that was given up: one that says nothing. It counts against the model, as it should."""
    return group.rollouts if group is not None else [_NOTHING]


def _boxes(rollout: Rollout, prompt: Prompt, data: DataConfig) -> tuple[tuple[BoxT, ...] | None, bool]:
    """Boxes in pixels of the stored image, and whether the response is of the form."""
    answer = parse_answer(rollout.text, prompt.width, prompt.height, data.coordinates, data.image_size)
    boxes = None if answer.boxes is None else tuple((b.x1, b.y1, b.x2, b.y2) for b in answer.boxes)
    return boxes, answer.well_formed and not rollout.truncated


def _record(
    question: GroundingQuestion, greedy: Rollout, sampled: Sequence[Rollout], data: DataConfig
) -> GroundingRecord:
    prompt = question.prompt
    boxes, well_formed = _boxes(greedy, prompt, data)
    drawn = [_boxes(rollout, prompt, data) for rollout in sampled]
    return GroundingRecord(
        prompt_id=prompt.id,
        study_id=prompt.study_id,
        label=question.label,
        width=prompt.width,
        height=prompt.height,
        target=tuple((b.x1, b.y1, b.x2, b.y2) for b in prompt.targets),
        greedy=boxes,
        well_formed=well_formed,
        sampled=tuple(boxes for boxes, _ in drawn),
        sampled_well_formed=tuple(ok for _, ok in drawn),
        greedy_text=greedy.text,
    )


def save_records(records: Sequence[GroundingRecord], path: Path) -> None:
    """One JSON object a line, beside the stage it measures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(json.dumps(asdict(record)) + "\n" for record in records))


def load_records(path: Path) -> list[GroundingRecord]:
    """What ``save_records`` wrote."""
    return [_from_json(json.loads(line)) for line in path.read_text().splitlines()]


def save_reports(studies: Sequence[Study], reports: Sequence[str], path: Path) -> None:
    """One JSON object a line: study, reference, generated."""
    lines = (
        json.dumps({"study_id": study.id, "reference": study.report, "generated": text}) + "\n"
        for study, text in zip(studies, reports, strict=True)
    )
    write_whole(path, "".join(lines))


def _from_json(fields: dict[str, Any]) -> GroundingRecord:
    def boxes(value: list[list[float]] | None) -> tuple[BoxT, ...] | None:
        return None if value is None else tuple((box[0], box[1], box[2], box[3]) for box in value)

    return GroundingRecord(
        **fields
        | {
            "target": boxes(fields["target"]),
            "greedy": boxes(fields["greedy"]),
            "sampled": tuple(boxes(item) for item in fields["sampled"]),
            "sampled_well_formed": tuple(fields["sampled_well_formed"]),
        }
    )
