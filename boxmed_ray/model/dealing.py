"""Dealing work of unequal size into parts of about equal size.

What lives here: the one rule by which ranks and micro-batches get their shares. What does not: what is dealt.
"""

from __future__ import annotations

from collections.abc import Sequence


def deal(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Positions of ``sizes`` in ``count`` parts: largest first, each to the part with the least so far.

    Ties go by position, so that every rank deals alike. Where sizes are above 0 and there are ``count`` of them or
    more, no part is empty.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for position in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = loads.index(min(loads))
        parts[least].append(position)
        loads[least] += sizes[position]
    return parts
