"""What SVR asks: prompts of three tasks, mixed by their shares.

What lives here: which task comes when. What does not: the prompt of one study (examples.py).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from boxmed_ray.config import DataConfig, SVRConfig, TaskName
from boxmed_ray.data.deck import Deck, require
from boxmed_ray.data.examples import Example, ground_prompts, joint_example, joint_studies, report_examples
from boxmed_ray.data.prompts import Task
from boxmed_ray.data.study import Study
from rewards.sample import BOXES, REPORT

TASKS: Final[dict[TaskName, Task]] = {"grounding": Task.GROUND, "report": Task.REPORT, "joint": Task.JOINT}
"""Name in a configuration → the task."""
ASKED: Final[dict[TaskName, frozenset[str]]] = {
    "grounding": frozenset({BOXES}),
    "report": frozenset({REPORT}),
    "joint": frozenset({BOXES, REPORT}),
}
"""What the answer to a prompt of a task holds, that rewards may read."""


def svr_prompts(studies: Sequence[Study], count: int, *, svr: SVRConfig, data: DataConfig, seed: int) -> list[Example]:
    """``count`` prompts in training order, ``svr.tasks`` of each kind; prompt ``i`` does not depend on ``count``.

    Raises:
        DataError: no study has what a task asks for.
    """
    names, shares = list(svr.shares), list(svr.shares.values())
    order = random.Random(f"tasks/{seed}").choices(names, shares, k=count) if len(names) > 1 else names * count
    asked = Counter(order)

    def ground(number: int) -> list[Example]:
        return ground_prompts(
            studies,
            number,
            none_share=svr.none_share,
            seed=seed,
            coordinates=data.coordinates,
            side=data.image_size,
        )

    def report(number: int) -> list[Example]:
        return report_examples(studies, number, seed=seed)

    def joint(number: int) -> list[Example]:
        deck = Deck(joint_studies(studies), f"joint/{seed}")
        require(deck, "a report and findings, which joint prompts need")
        return [joint_example(deck.draw(), data.coordinates, data.image_size) for _ in range(number)]

    makers: dict[TaskName, Callable[[int], list[Example]]] = {"grounding": ground, "report": report, "joint": joint}
    dealt: dict[TaskName, Iterator[Example]] = {name: iter(makers[name](asked[name])) for name in names}
    return [next(dealt[name]) for name in order]
