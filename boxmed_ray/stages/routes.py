"""Whether the rewards of a run fit its tasks, asked before anything starts.

What lives here: the questions and the messages. What does not: rewards (rewards/registry.py), the scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Final

from boxmed_ray.config import ConfigError, RunConfig, TaskName
from boxmed_ray.data.mixture import ASKED
from boxmed_ray.stages.cheating import watched
from rewards.metrics import METRICS, Loaded
from rewards.registry import check, metrics_of, reads
from rewards.scorers import Paths

EXAMPLES: Final[dict[TaskName, str]] = {
    "grounding": "{soft_f1: 1.0, format: 1.0}",
    "report": "{clinical_lite: 1.0, length: 0.2}",
    "joint": "{joint_lite: 1.0, format: 0.5}",
}
"""Rewards that fit a task, for messages."""


def check_rewards(config: RunConfig) -> None:
    """Refuse rewards and watching scorers that cannot be built, or that read what a task does not ask for.

    Scorers with weights of their own are loaded once, in a process that ends: a broken file must not show after hours
    of MCL.

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
        measuring = watched(config)
    except ValueError as error:
        raise ConfigError(f"svr.watch.scorers: {error}") from error
    if "svr" not in config.skip:
        used = (*config.svr.routes.values(), *measuring.values())
        names = metrics_of(name for part in used for name in part)
        _try_loading([name for name in names if set(METRICS[name].needs) - {"minilm"}], config.scorers.paths)


def _try_loading(names: Sequence[str], paths: Paths) -> None:
    if not names:
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        try:
            child.submit(_load, names, paths).result()
        except ValueError as error:
            raise ConfigError(f"svr: {error}") from error
        except BrokenProcessPool as error:
            raise ConfigError(f"svr: the process that loads {', '.join(names)} was killed; out of memory?") from error


def _load(names: Sequence[str], paths: Paths) -> None:
    loaded = Loaded(paths)
    for name in names:
        loaded.metric(name)
