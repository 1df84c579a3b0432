"""How many engines a service has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Replicas:
    """One engine each.

    Attributes:
        least: at any time.
        most: while there is work for them.
        target: requests under way in each that Ray Serve aims at when ``most`` is above ``least``.
        idle_s: after which one that is not needed goes.
    """

    least: int = 1
    most: int = 1
    target: float = 8.0
    idle_s: float = 120.0
