"""The reward actor: reads responses, scores them, and returns rewards by group.

What lives here: from rollouts to Samples and back. What does not: the maths of a reward (rewards/),
the reading of an answer (data/prompts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from boxmed_ray.actors.types import Group, ScoredGroup
from boxmed_ray.data.prompts import Coordinates, Task, parse_answer
from rewards.registry import build
from rewards.sample import Sample


class RewardWorker:
    """Scores groups with a weighted set of rewards.

    Args:
        weights: reward name → weight (rewards/registry.py).
        coordinates: meaning of numbers in answers.
        side: of the square the model sees.
        scorers: where published scorers lie.

    Raises:
        ValueError: an unknown reward name, or a scorer that is missing.
    """

    def __init__(
        self, weights: dict[str, float], coordinates: Coordinates, side: int, scorers: Mapping[str, Path] | None = None
    ) -> None:
        self._reward = build(weights, scorers)
        self._coordinates: Coordinates = coordinates
        self._side = side

    def ready(self) -> bool:
        """Answers once the worker is up."""
        return True

    def score(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        """Score whole groups; samples of all groups go through each reward as one batch."""
        samples = [self._sample(group, index) for group in groups for index in range(len(group.rollouts))]
        scores = iter(self._reward.score(samples))
        scored = []
        for group in groups:
            mine = [next(scores) for _ in group.rollouts]
            names = mine[0].components if mine else {}
            scored.append(
                ScoredGroup(
                    group=group,
                    rewards=np.array([score.value for score in mine], dtype=np.float32),
                    components={
                        name: np.array([score.components[name] for score in mine], dtype=np.float32) for name in names
                    },
                    malformed=np.array(["malformed" in score.flags for score in mine], dtype=bool),
                )
            )
        return scored

    def _sample(self, group: Group, index: int) -> Sample:
        prompt, rollout = group.prompt, group.rollouts[index]
        if prompt.task is Task.REPORT:
            return Sample(
                text=rollout.text,
                boxes=(),
                well_formed=not rollout.truncated,
                target_boxes=(),
                target_text=prompt.target_text,
                truncated=rollout.truncated,
            )
        answer = parse_answer(rollout.text, prompt.width, prompt.height, self._coordinates, self._side)
        return Sample(
            text=rollout.text,
            boxes=answer.boxes,
            well_formed=answer.well_formed and not rollout.truncated,
            target_boxes=prompt.targets,
            target_text=prompt.target_text,
            truncated=rollout.truncated,
        )
