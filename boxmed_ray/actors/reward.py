"""The reward actor: reads responses, scores them, and returns rewards by group.

What lives here: from rollouts to Samples and back. What does not: the maths of a reward (rewards/),
the reading of an answer (data/prompts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from boxmed_ray.actors.types import HELD_OUT, Group, Measured, Prompt, Rollout, ScoredGroup
from boxmed_ray.data.prompts import Coordinates, Task, parse_answer, parse_joint, without_boxes
from rewards.habits import habits, mean_and_spread
from rewards.metrics import Loaded
from rewards.registry import build
from rewards.sample import MALFORMED, SCORER_ERROR, Sample, Score
from rewards.text.pair import spoken


class RewardWorker:
    """Scores groups, each task's with a weighted set of rewards of its own.

    Args:
        routes: task → reward name → weight (rewards/registry.py).
        coordinates: meaning of numbers in answers.
        side: of the square the model sees.
        scorers: where published scorers lie.
        watched: task → names of rewards that measure responses without rewarding them.

    Raises:
        ValueError: an unknown reward name, or a scorer that is missing.
    """

    def __init__(
        self,
        routes: Mapping[Task, Mapping[str, float]],
        coordinates: Coordinates,
        side: int,
        scorers: Mapping[str, Path] | None = None,
        watched: Mapping[Task, Sequence[str]] | None = None,
    ) -> None:
        self._loaded = Loaded(scorers or {})
        self._rewards = {task: build(weights, loaded=self._loaded) for task, weights in routes.items()}
        self._watched = {
            task: build(dict.fromkeys(names, 1.0), loaded=self._loaded)
            for task, names in (watched or {}).items()
            if names
        }
        self._coordinates: Coordinates = coordinates
        self._side = side

    def ready(self) -> bool:
        """Answers once the worker is up."""
        return True

    def score(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        """Score whole groups; samples of all groups of a task go through each reward as one batch.

        What earlier calls scored is forgotten first. Networks round by what shares their batch: so a call has the same
        scores bit for bit in a run that was resumed, or on another worker.

        Raises:
            KeyError: a group of a task that has no rewards.
        """
        self._loaded.forget()
        scores: dict[int, list[Score]] = {}
        for task in dict.fromkeys(group.prompt.task for group in groups):
            mine = [i for i, group in enumerate(groups) if group.prompt.task is task]
            found = iter(self._rewards[task].score([sample for i in mine for sample in self.samples(groups[i])]))
            scores |= {i: [next(found) for _ in groups[i].rollouts] for i in mine}
        return [_scored(group, scores[i]) for i, group in enumerate(groups)]

    def measure(self, groups: Sequence[Group]) -> Measured:
        """What is watched of responses to prompts of one task, one group or more; learned from by nobody."""
        samples = [sample for group in groups for sample in self.samples(group)]
        columns = habits(samples, [group.prompt.study_id for group in groups for _ in group.rollouts])
        watched = self._watched.get(groups[0].prompt.task)
        if watched is not None:
            scores = watched.score(samples)
            columns |= {f"{HELD_OUT}{name}": [s.components[name] for s in scores] for name in watched.weights}
        return {name: mean_and_spread(values) for name, values in columns.items()}

    def samples(self, group: Group) -> list[Sample]:
        """The responses of a group, read."""
        return [self._sample(group.prompt, rollout) for rollout in group.rollouts]

    def _sample(self, prompt: Prompt, rollout: Rollout) -> Sample:
        if prompt.task is Task.REPORT:
            return Sample(
                text=rollout.text,
                boxes=(),
                well_formed=not rollout.truncated,
                target_boxes=(),
                target_text=prompt.target_text,
                truncated=rollout.truncated,
            )
        joint = prompt.task is Task.JOINT
        read = parse_joint if joint else parse_answer
        answer = read(rollout.text, prompt.width, prompt.height, self._coordinates, self._side)
        return Sample(
            text=rollout.text,
            boxes=answer.boxes,
            well_formed=answer.well_formed and not rollout.truncated,
            target_boxes=prompt.targets,
            target_text=prompt.target_text,
            truncated=rollout.truncated,
            report=without_boxes(spoken(rollout.text)) if joint else None,
        )


def _scored(group: Group, scores: Sequence[Score]) -> ScoredGroup:
    """The scores of a group; a response on which a scorer failed has the lowest, unless one failed on all.

    A scorer that failed counts as 0, which is more than many rewards give: a response must not gain by it.
    """
    names = scores[0].components if scores else {}
    unscored = np.array([SCORER_ERROR in score.flags for score in scores], dtype=bool)
    rewards = np.array([score.value for score in scores], dtype=np.float32)
    if not unscored.all():
        rewards[unscored] = rewards.min()
    return ScoredGroup(
        group=group,
        rewards=rewards,
        components={name: np.array([score.components[name] for score in scores], dtype=np.float32) for name in names},
        malformed=np.array([MALFORMED in score.flags for score in scores], dtype=bool),
        unscored=unscored,
    )
