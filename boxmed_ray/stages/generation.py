"""Asking the rollout pool: prompts in, groups out, in their order; None where a prompt was given up.

What lives here: how prompts are cut into calls. What does not: which prompts and why (drawing.py,
evaluation.py), the pool and the workers (actors/).

Two ways, for two promises. ``generate`` cuts batches that depend on nothing but the prompts and the config,
each with a seed of its own, so that the same prompts give the same groups whichever workers there are.
``generate_freely`` hands every prompt over by itself: engines stay full to the last group, and the same call
gives other samples each time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypeVar

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_items import LostError, PoolError
from boxmed_ray.actors.types import Group, Prompt
from boxmed_ray.config import RunConfig

log = logging.getLogger(__name__)
T = TypeVar("T")


def generate(
    pool: Pool,
    prompts: Sequence[Prompt],
    config: RunConfig,
    *,
    n: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    greedy: bool = False,
    seed: int = 0,
    lora: str | None = None,
) -> list[Group | None]:
    """Groups made by whichever workers are free; the same for the same seed.

    A batch on which worker after worker is lost is asked again prompt by prompt, so that one bad prompt costs
    itself alone.

    Raises:
        PoolError: there are no workers any more, or every single prompt was given up.
        DataError: an image cannot be read.
    """

    def ask(batch: list[Prompt]) -> Future[list[Group]]:
        return pool.submit(
            "generate_groups",
            batch,
            cost=config.resources.max_sequences,
            n=n,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            greedy=greedy,
            seed=seed,
            lora_path=lora,
        )

    groups: list[Group | None] = []
    asked = [(batch, ask(batch)) for batch in _batches(prompts, config, n)]
    with pool.waiting():
        for batch, future in asked:
            try:
                groups += future.result()
            except LostError as error:
                log.warning("%d prompts are asked one by one: %s", len(batch), error)
                alone = [ask([prompt]) for prompt in batch]
                each = [_unless_lost(prompt, future) for prompt, future in zip(batch, alone, strict=True)]
                groups += [None if one is None else one[0] for one in each]
    if groups and all(group is None for group in groups):
        # An engine that dies of its model or its adapter answers nothing: no figure is to be made of that.
        raise PoolError(f"each of {len(groups)} prompts has cost its worker; mend what the log above names")
    return groups


def generate_freely(
    pool: Pool, prompts: Sequence[Prompt], *, n: int, max_new_tokens: int, temperature: float
) -> list[Group | None]:
    """Groups, each begun as soon as some engine has room.

    Raises:
        PoolError, DataError: as ``generate``.
    """
    options = {"n": n, "max_new_tokens": max_new_tokens, "temperature": temperature}
    asked = [pool.submit("generate_group", prompt, cost=n, **options) for prompt in prompts]
    with pool.waiting():
        return [_unless_lost(prompt, future) for prompt, future in zip(prompts, asked, strict=True)]


def _batches(prompts: Sequence[Prompt], config: RunConfig, n: int) -> list[list[Prompt]]:
    """As large as an engine holds, and no larger than an even share, so that every worker has something to do."""
    share = -(-len(prompts) // config.resources.rollout_workers.max)
    size = max(1, min(config.resources.max_sequences // n, share))
    return [list(prompts[i : i + size]) for i in range(0, len(prompts), size)]


def _unless_lost(prompt: Prompt, future: Future[T]) -> T | None:
    try:
        return future.result()
    except LostError as error:
        log.error("prompt %s given up: %s", prompt.name, error)
        return None
