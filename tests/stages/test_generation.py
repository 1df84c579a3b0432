"""Prompts that cost their workers are given up one by one; where all are, nothing is to be measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, cast

import pytest

from boxmed_ray.actors.pool import Pool
from boxmed_ray.actors.pool_items import LostError, PoolError
from boxmed_ray.actors.types import Group, Prompt
from boxmed_ray.config import RunConfig
from boxmed_ray.data.prompts import Task
from boxmed_ray.stages.generation import generate


class DyingPool:
    """Loses every batch in which there is a prompt that it does not survive."""

    def __init__(self, deadly: set[str]) -> None:
        self.deadly = deadly

    def submit(self, method: str, batch: list[Prompt], **options: Any) -> Future[list[Group]]:
        future: Future[list[Group]] = Future()
        if self.deadly & {prompt.id for prompt in batch}:
            future.set_exception(LostError("rollout", 3, "killed"))
        else:
            future.set_result([Group(prompt, ()) for prompt in batch])
        return future

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        yield


def ask(deadly: set[str]) -> list[Group | None]:
    prompts = [Prompt(name, Task.GROUND, "Mass.", name, "x.png", 8, 8) for name in "abc"]
    return generate(cast(Pool, DyingPool(deadly)), prompts, RunConfig(), n=1, max_new_tokens=4)


def test_a_prompt_that_kills_costs_itself_alone() -> None:
    assert [group is None for group in ask({"b"})] == [False, True, False]


def test_where_each_prompt_kills_there_is_no_answer_to_measure() -> None:
    with pytest.raises(PoolError, match="each of 3 prompts has cost its worker"):
        ask({"a", "b", "c"})
