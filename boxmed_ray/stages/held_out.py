"""A model's answers on the held-out split, as `boxmed evaluate` measures them.

What lives here: the rollout pool of an evaluation, and the digests by which samples of two evaluations are known to be
the same. What does not: which prompts there are (evaluation.py), figures and files (evaluate/).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from boxmed_ray.actors.types import Prompt
from boxmed_ray.config import RunConfig
from boxmed_ray.data.examples import concept_examples_of, report_example
from boxmed_ray.data.images import read_bytes
from boxmed_ray.data.load import Dataset
from boxmed_ray.data.study import DataError, Study
from boxmed_ray.evaluate.concept_figures import ConceptRecord
from boxmed_ray.evaluate.grounding import GroundingRecord
from boxmed_ray.events import EventWriter
from boxmed_ray.ray_local import ray_session
from boxmed_ray.stages.evaluation import ask_concepts, ask_grounding, ask_reports, grounding_questions, prompt_of
from boxmed_ray.stages.rollouts import rollout_pool


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: its folder, absolute, its rank, and whether all is asked with it or reports only."""

    folder: Path
    rank: int
    for_all: bool = False


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said.

    Attributes:
        grounding: answers of the backbone, without an adapter unless it is for all.
        concepts: chains of reasoning, likewise.
        studies: those that have a report.
        reports: the generated report of each, by the adapter where there is one.
        digests: sample (``grounding PROMPT``, ``concepts STUDY``, ``report STUDY``) → digest of image, question, truth.
    """

    grounding: list[GroundingRecord]
    concepts: list[ConceptRecord]
    studies: list[Study]
    reports: list[str]
    digests: dict[str, str]


def answer_held_out(config: RunConfig, dataset: Dataset, model: Path, adapter: Adapter | None) -> Answers:
    """Ask the first ``evaluate.images`` held-out studies for boxes, reasoning and reports, with a Ray of its own.

    Raises:
        PoolError: no worker starts.
        DataError: an image cannot be read, or the held-out split has nothing to ask about.
    """
    held_out = dataset.split("test")
    questions = grounding_questions(held_out, config)
    studies = [study for study in held_out if study.report][: config.evaluate.images]
    reasoning = [e for study in held_out for e in concept_examples_of(study)][: config.evaluate.images]
    if not questions and not studies and not reasoning:
        raise DataError("the held-out split has no box, no finding and no report: there is nothing to ask about")
    workers = config.resources.rollout_workers.max
    with ray_session(num_cpus=float(config.resources.threads * workers + 1)):
        rank = adapter.rank if adapter else 0
        pool = rollout_pool(config, lambda: model, dataset.images, EventWriter(None), rank)
        pool.launch()
        try:
            pool.wait_ready()
            lora = str(adapter.folder) if adapter else None
            for_all = lora if adapter and adapter.for_all else None
            grounding = ask_grounding(pool, questions, config, lora=for_all)
            concepts = ask_concepts(pool, reasoning, config, lora=for_all)
            reports = ask_reports(pool, studies, config, lora=lora)
        finally:
            pool.shutdown()
    digests = {f"grounding {q.prompt.id}": _digest(q.prompt, q.label) for q in questions}
    digests |= {
        f"report {study.id}": _digest(prompt_of(report_example(study)), study.report or "") for study in studies
    }
    digests |= {f"concepts {e.study.id}": _digest(prompt_of(e), e.response) for e in reasoning}
    return Answers(grounding, concepts, studies, reports, digests)


def _digest(prompt: Prompt, truth: str) -> str:
    """16 hexadecimal digits over image bytes, question and truth; the place of the files is not in it."""
    boxes = [[box.x1, box.y1, box.x2, box.y2] for box in prompt.targets]
    question = json.dumps([prompt.task, prompt.phrase, prompt.width, prompt.height, boxes, truth])
    return hashlib.sha256(read_bytes(Path(prompt.image)) + question.encode()).hexdigest()[:16]
