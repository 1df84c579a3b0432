"""Items dealt in random order, time and again: what prompts and examples are drawn from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Generic, TypeVar

from boxmed_ray.data.study import DataError

T = TypeVar("T")


def require(deck: Deck[T], what: str) -> None:
    """Raises DataError where there is nothing to deal; ``what`` no study has."""
    if not deck:
        raise DataError(f"none of the studies has {what}; check data.root and the split of the data set")


class Deck(Generic[T]):
    """Items dealt in a random order, shuffled anew when all have been dealt."""

    def __init__(self, items: Sequence[T], seed: str) -> None:
        self._items = list(items)
        self._rng = random.Random(seed)
        self._hand: list[T] = []

    def __bool__(self) -> bool:
        return bool(self._items)

    def draw(self) -> T:
        """The next item."""
        if not self._hand:
            self._hand = self._rng.sample(self._items, len(self._items))
        return self._hand.pop()
