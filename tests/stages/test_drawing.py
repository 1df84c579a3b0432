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
    return draw(sample, source.take(0, 4), lambda more: source.take(0, more), settings.svr), source, rounds


def names(groups: Sequence[ScoredGroup]) -> list[str]:
    return [group.group.prompt.id for group in groups]


def test_flat_groups_are_replaced_by_further_prompts() -> None:
    # Two of four are kept, so two more need about four; three of those four are, and one is too many.
    result, source, rounds = drawn({1, 2, 5})
    assert rounds == [4, 4]
    assert names(result.kept) == ["p0", "p3", "p4", "p6"]
    assert names(result.groups) == [f"p{i}" for i in range(8)]
    assert source.state["prompts_drawn"] == 8


def test_an_update_that_is_full_at_once_draws_no_more() -> None:
    result, source, rounds = drawn(set())
    assert (rounds, source.state["prompts_drawn"], names(result.kept)) == ([4], 4, ["p0", "p1", "p2", "p3"])


def test_the_limit_ends_the_drawing_with_what_there_is() -> None:
    flat = set(range(100)) - {2, 9}
    result, source, rounds = drawn(flat, max_draws=3)
    assert names(result.kept) == ["p2", "p9"]
    assert sum(rounds) == source.state["prompts_drawn"] == 12
    assert names(drawn(set(range(100)), max_draws=2)[0].kept) == []


def test_without_dynamic_sampling_flat_groups_are_learned_too() -> None:
    settings = config()
    run = Run(settings, lambda _: True)
    source = Prompts(prompts(8))
    result = draw(
        lambda asked, turn: run._score(run._sample(asked, n=2, seed=turn)),
        source.take(0, 4),
        lambda more: source.take(0, more),
        settings.svr,
    )
    assert names(result.kept) == names(result.groups) == ["p0", "p1", "p2", "p3"]


def test_prompts_that_run_out_are_an_error() -> None:
    source = Prompts(prompts(3), {"prompts_drawn": 2})
    assert names_of(source.take(0, 1)) == ["p2"]
    with pytest.raises(ValueError, match="3 to 4 are asked for"):
        source.take(0, 1)


def names_of(taken: Sequence[Prompt]) -> list[str]:
    return [prompt.id for prompt in taken]


def test_prompts_taken_and_not_yet_learned_are_taken_first_by_a_resumed_run() -> None:
    source = Prompts(prompts(20))
    for update in (0, 2, 1):
        source.take(update, 3)
    source.take(1, 1)
    source.learned(0)
    # update 1 took p6 … p8 and p9, update 2 took p3 … p5: the earlier update's come first
    assert source.state == {"prompts_drawn": 10, "prompts_pending": [6, 7, 8, 9, 3, 4, 5]}
    again = Prompts(prompts(20), source.state)
    assert names_of(again.take(1, 3)) == ["p6", "p7", "p8"]
    assert again.state == {"prompts_drawn": 10, "prompts_pending": [6, 7, 8, 9, 3, 4, 5]}
    assert names_of(again.take(2, 6)) == ["p9", "p3", "p4", "p5", "p10", "p11"]


def test_the_overlong_penalty_is_added_to_the_reward_and_named() -> None:
    # cap 16, buffer 4: nothing up to 12 tokens, then a quarter a token
    group = with_overlong_penalty(scored([1, 1, 0, 2], [3, 12, 13, 16]), limit=16, buffer=4)
    assert group.components["overlong"].tolist() == [0, 0, -0.25, -1]
    assert group.rewards.tolist() == [1, 1, -0.25, 1]
    assert np.array_equal(group.components["format"], [1, 1, 0, 2])
