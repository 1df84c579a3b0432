"""From prompts to scored groups: rollout pool, then reward pool.

What lives here: one round of sampling and scoring, timed, and the drawing of one update from such rounds. What
does not: how prompts are cut into calls (generation.py), which groups are kept (drawing.py), learning
(reinforce.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_items import LostError
from boxmed_ray.actors.types import Group, Prompt, ScoredGroup
from boxmed_ray.config import RunConfig
from boxmed_ray.events import EventWriter
from boxmed_ray.stages.clock import Clock
from boxmed_ray.stages.drawing import Drawn, Prompts, draw, with_overlong_penalty
from boxmed_ray.stages.generation import generate, generate_freely

_ROUND_SEED = 1 << 40
"""Between the seeds of one update's rounds of drawing; no number of updates reaches it."""


class Sampler:
    """Draws updates; several may be drawn at once, from several threads.

    Args:
        config: of the run.
        rollouts: workers that hold the weights to sample from.
        rewards: workers that score.
        events: told of every prompt that is given up.
    """

    def __init__(self, config: RunConfig, rollouts: Pool, rewards: Pool, events: EventWriter) -> None:
        self._config, self._rollouts, self._rewards, self._events = config, rollouts, rewards, events

    def draw(self, index: int, prompts: Prompts) -> Callable[[], Drawn]:
        """Take the first prompts of update ``index`` (updates before it); the rest of its drawing is returned.

        So updates that are drawn side by side have their prompts in order. The index also seeds the sampling.
        """
        first = prompts.take(index, self._config.svr.prompts_per_step)
        return partial(self._draw, index, first, prompts)

    def _draw(self, index: int, first: Sequence[Prompt], prompts: Prompts) -> Drawn:
        clock = Clock()
        lost: list[str] = []

        def sample(asked: Sequence[Prompt], turn: int) -> list[ScoredGroup]:
            with clock.phase("generate"):
                answers = self._generate(asked, self._config.seed * 1_000_003 + index + turn * _ROUND_SEED)
            with clock.phase("score"):
                scored = self._score([group for group in answers if group is not None])
            done = {one.group.prompt.id for one in scored}
            lost.extend(prompt.name for prompt in asked if prompt.id not in done)
            return scored

        drawn = draw(sample, first, partial(prompts.take, index), self._config.svr)
        if lost:
            self._events.write("lost", update=index + 1, prompts=lost)
        return replace(drawn, lost=lost, seconds=clock.phases)

    def _generate(self, prompts: Sequence[Prompt], seed: int) -> list[Group | None]:
        svr = self._config.svr
        if svr.max_staleness:
            return generate_freely(
                self._rollouts,
                prompts,
                n=svr.group_size,
                max_new_tokens=svr.max_new_tokens,
                temperature=svr.temperature,
            )
        return generate(
            self._rollouts,
            prompts,
            self._config,
            n=svr.group_size,
            temperature=svr.temperature,
            max_new_tokens=svr.max_new_tokens,
            seed=seed,
        )

    def _score(self, groups: list[Group]) -> list[ScoredGroup]:
        """Scores do not depend on who shares a batch, so a batch on which workers are lost can be cut up."""
        svr, workers = self._config.svr, self._config.resources.reward_workers.max
        size = max(1, -(-len(groups) // workers))
        batches = [groups[i : i + size] for i in range(0, len(groups), size)]
        asked = [(batch, self._rewards.submit("score", batch)) for batch in batches]
        scored = []
        with self._rewards.waiting():
            for batch, future in asked:
                scored += self._scored(batch, future)
        if svr.overlong_buffer is None:
            return scored
        return [with_overlong_penalty(one, svr.max_new_tokens, svr.overlong_buffer) for one in scored]

    def _scored(self, batch: list[Group], future: Future[list[ScoredGroup]]) -> list[ScoredGroup]:
        try:
            return future.result()
        except LostError:
            if len(batch) == 1:
                return []
            alone = [([group], self._rewards.submit("score", [group])) for group in batch]
            return [one for group, each in alone for one in self._scored(group, each)]
