"""The application as a Serve config names it (``import_path: serve.cluster:build``): for RayService and `serve deploy`.

What lives here: the arguments of such a config. What does not: what a replica is (deployment.py), a service on this
machine (app.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxmed_ray.config import ConfigError
from serve.artifacts import load_artifacts
from serve.deployment import application
from serve.security import Limits

_ARGUMENTS = {"run"}


def build(args: dict[str, Any]) -> Any:
    """The application of one finished run.

    Args:
        args: ``run``: folder of the run, as every node sees it.

    Raises:
        ConfigError: an unknown or missing argument, or a run that is missing or unfinished.
    """
    if set(args) != _ARGUMENTS:
        raise ConfigError(f"args of serve.cluster:build are {sorted(args)}; it takes run, the folder of a finished run")
    return application(load_artifacts(Path(str(args["run"]))), Limits())
