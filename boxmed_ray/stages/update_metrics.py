"""The numbers of one update.

What lives here: from rollouts, learner and clock to one flat dictionary. What does not: writing it
(tracking.py), the learner's own sums (grpo/metrics.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from boxmed_ray.actors.types import ScoredGroup
from boxmed_ray.data.mixture import TASKS
from boxmed_ray.stages.clock import Clock
from boxmed_ray.stages.drawing import Drawn, with_variance

_NAMES = {task: name for name, task in TASKS.items()}


def update_metrics(drawn: Drawn, clock: Clock, learned: dict[str, Any]) -> dict[str, float]:
    """All numbers of an update; a phase that it did not have has none.

    Drawn ahead, its ``generate_s`` and ``score_s`` are of the time in which others were learned, and ``wait_s``
    is what was left to wait for. ``data_s`` is what the learner spent on images and prompts, its engine idle.
    """
    seconds = {f"{phase}_s": took for phase, took in drawn.seconds.items()} | clock.seconds()
    sampled, taught = _tokens(drawn.groups), _tokens(drawn.kept)
    learner = _learner_metrics(learned)
    # The part ``length`` is a reward, and the learner's ``length`` counts tokens.
    rollouts = {f"reward_{n}" if n in learner else n: value for n, value in rollout_metrics(drawn.groups).items()}
    handled = {"generate": sampled, "score": sampled, "learn": taught, "push": taught}
    return {
        **rollouts,
        **learner,
        **seconds,
        "data_s": learned["seconds"].get("encode", 0.0),
        "lost_groups": len(drawn.lost),
        "tokens_per_s": sampled / seconds["step_s"],
        **{
            f"{phase}_tokens_per_s": tokens / max(seconds[f"{phase}_s"], 1e-9)
            for phase, tokens in handled.items()
            if f"{phase}_s" in seconds
        },
    }


def staleness(groups: Sequence[ScoredGroup], version: int) -> dict[str, float]:
    """How many weight versions before ``version`` the responses were sampled from: the mean, and the largest."""
    behind = [version - rollout.weight_version for group in groups for rollout in group.group.rollouts]
    return {"staleness": float(np.mean(behind)), "staleness_max": float(max(behind))}


def _tokens(groups: Sequence[ScoredGroup]) -> int:
    """Of all responses."""
    return sum(len(rollout.token_ids) for group in groups for rollout in group.group.rollouts)


def _learner_metrics(learned: dict[str, Any]) -> dict[str, float]:
    """The learner's numbers, its seconds by part as ``learn_<part>_s``."""
    numbers = {name: value for name, value in learned.items() if isinstance(value, int | float)}
    return numbers | {f"learn_{part}_s": value for part, value in learned["seconds"].items()}


def rollout_metrics(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """Reward mean and spread, parts by name, lengths and shares of all rollouts that an update drew.

    A part is the mean over the groups that have it; where an update asked several tasks, each has a reward of its own.
    """
    if not scored:
        return {"drawn_groups": 0}
    rewards = np.concatenate([group.rewards for group in scored])
    rollouts = [rollout for group in scored for rollout in group.group.rollouts]
    metrics = {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "group_std": float(np.mean([group.rewards.std() for group in scored])),
        "drawn_groups": len(scored),
        "flat_groups": 1 - len(with_variance(scored)) / len(scored),
        "response_tokens": float(np.mean([len(rollout.token_ids) for rollout in rollouts])),
        "truncated": float(np.mean([rollout.truncated for rollout in rollouts])),
        "malformed": float(np.concatenate([group.malformed for group in scored]).mean()),
        "unscored": sum(int(group.unscored.sum()) for group in scored) / len(rollouts),
    }
    for name in dict.fromkeys(name for group in scored for name in group.components):
        parts = [group.components[name] for group in scored if name in group.components]
        metrics[name] = float(np.concatenate(parts).mean())
    tasks = dict.fromkeys(group.group.prompt.task for group in scored)
    if len(tasks) > 1:
        for task in tasks:
            own = [group.rewards for group in scored if group.group.prompt.task is task]
            metrics[f"reward_{_NAMES[task]}"] = float(np.concatenate(own).mean())
    if "format" in metrics:
        metrics["well_formed"] = metrics["format"]
    return metrics
