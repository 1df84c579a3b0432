"""Whether the rewards of a run fit its tasks, asked before anything starts.

What lives here: the questions and the messages. What does not: rewards (rewards/registry.py), the scoring.
"""

from __future__ import annotations

from typing import Final

from boxmed_ray.config import ConfigError, RunConfig, TaskName
from boxmed_ray.data.mixture import ASKED
from boxmed_ray.stages.cheating import watched
from rewards.registry import check, reads

EXAMPLES: Final[dict[TaskName, str]] = {
    "grounding": "{soft_f1: 1.0, format: 1.0}",
    "report": "{clinical_lite: 1.0, length: 0.2}",
    "joint": "{joint_lite: 1.0, format: 0.5}",
}
"""Rewards that fit a task, for messages."""


def check_rewards(config: RunConfig) -> None:
    """Refuse rewards and watching scorers that cannot be built, or that read what a task does not ask for.

    Raises:
        ConfigError: with key, name and remedy.
    """
    for task, weights in config.svr.routes.items():
        key = f"svr.task_rewards.{task}" if task in config.svr.task_rewards else "svr.rewards"
        try:
            check(weights, config.scorers.paths)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
        blind = [name for name in weights if not reads(name) <= ASKED[task]]
        if blind:
            wanting = " and ".join(sorted(reads(blind[0]) - ASKED[task]))
            raise ConfigError(
                f"{key}: reward {blind[0]!r} reads {wanting}, which {task} prompts do not ask for; "
                f"set svr.task_rewards.{task}={EXAMPLES[task]}, for instance"
            )
    try:
        watched(config)
    except ValueError as error:
        raise ConfigError(f"svr.watch.scorers: {error}") from error
