"""The reward as it goes on from update to update, smoothed: what tells the best checkpoint of SVR.

What lives here: the mean over the last updates, and what of it a checkpoint keeps. What does not: rewards of an update
(reinforce.py), which checkpoint is dropped (checkpoint.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import fmean


class RewardTrend:
    """The mean reward of the last updates.

    One update sees few prompts, so its own reward says more about them than about the policy. Each update's reward is
    of the weights before it: the mean of a window of n stands for the policy some n / 2 updates ago.

    Args:
        window: updates that count.
        rewards: of the last updates before a resume, the oldest first.
    """

    def __init__(self, window: int, rewards: Iterable[float] = ()) -> None:
        self._rewards = deque(rewards, window)

    def add(self, reward: float) -> float:
        """Count an update's mean reward; the mean of the window."""
        self._rewards.append(reward)
        return fmean(self._rewards)

    @property
    def mean(self) -> float | None:
        """Of the window; None before the first update."""
        return fmean(self._rewards) if self._rewards else None

    @property
    def rewards(self) -> list[float]:
        """Of the window, the oldest first."""
        return list(self._rewards)
