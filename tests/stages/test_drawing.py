"""Which groups an update learns, by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from boxmed_ray.actors.types import Prompt, ScoredGroup
from boxmed_ray.stages.drawing import Drawn, Prompts, draw, with_overlong_penalty
from tests.stages.reinforce_cases import Run, config, prompts
from tests.stages.test_reinforce import scored


def drawn(flat: set[int], count: int = 100, **svr: object) -> tuple[Drawn, Prompts, list[int]]:
    """What an update of four draws where the prompts in ``flat`` have no variance; and the size of each round."""
    settings = config(dynamic_sampling=True, **svr)
    run, rounds = Run(settings, flat.__contains__), []  # type: tuple[Run, list[int]]

    def sample(asked: Sequence[Prompt], turn: int) -> list[ScoredGroup]:
        assert turn == len(rounds)
        rounds.append(len(asked))
        return run._score(run._sample(asked, n=2, seed=turn))

    source = Prompts(prompts(count))
    return draw(sample, source, settings.svr), source, rounds


def names(groups: Sequence[ScoredGroup]) -> list[str]:
    return [group.group.prompt.id for group in groups]


def test_flat_groups_are_replaced_by_further_prompts() -> None:
    # Two of four are kept, so two more need about four; three of those four are, and one is too many.
    result, source, rounds = drawn({1, 2, 5})
    assert rounds == [4, 4]
    assert names(result.kept) == ["p0", "p3", "p4", "p6"]
    assert names(result.groups) == [f"p{i}" for i in range(8)]
    assert source.position == 8


def test_an_update_that_is_full_at_once_draws_no_more() -> None:
    result, source, rounds = drawn(set())
    assert (rounds, source.position, names(result.kept)) == ([4], 4, ["p0", "p1", "p2", "p3"])


def test_the_limit_ends_the_drawing_with_what_there_is() -> None:
    flat = set(range(100)) - {2, 9}
    result, source, rounds = drawn(flat, max_draws=3)
    assert names(result.kept) == ["p2", "p9"]
    assert sum(rounds) == source.position == 12
    assert names(drawn(set(range(100)), max_draws=2)[0].kept) == []


def test_without_dynamic_sampling_flat_groups_are_learned_too() -> None:
    settings = config()
    run = Run(settings, lambda _: True)
    source = Prompts(prompts(8))
    result = draw(lambda asked, turn: run._score(run._sample(asked, n=2, seed=turn)), source, settings.svr)
    assert names(result.kept) == names(result.groups) == ["p0", "p1", "p2", "p3"]


def test_prompts_that_run_out_are_an_error() -> None:
    source = Prompts(prompts(3), position=2)
    assert [prompt.id for prompt in source.take(1)] == ["p2"]
    with pytest.raises(ValueError, match="3 to 4 are asked for"):
        source.take(1)


def test_the_overlong_penalty_is_added_to_the_reward_and_named() -> None:
    # cap 16, buffer 4: nothing up to 12 tokens, then a quarter a token
    group = with_overlong_penalty(scored([1, 1, 0, 2], [3, 12, 13, 16]), limit=16, buffer=4)
    assert group.components["overlong"].tolist() == [0, 0, -0.25, -1]
    assert group.rewards.tolist() == [1, 1, -0.25, 1]
    assert np.array_equal(group.components["format"], [1, 1, 0, 2])
