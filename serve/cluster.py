"""The application as a Serve config names it (``import_path: serve.cluster:build``): for RayService and `serve deploy`.

What lives here: the arguments of such a config. What does not: what a replica is (deployment.py), a service on this
machine (app.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxmed_ray.commands.serve import parse_replicas
from boxmed_ray.config import ConfigError
from serve.artifacts import load_artifacts
from serve.deployment import application
from serve.desk import Settings
from serve.security import Limits

_NEEDED, _ALLOWED = {"run", "keys"}, {"run", "keys", "replicas", "feedback"}


def build(args: dict[str, Any]) -> Any:
    """The application of one finished run.

    Args:
        args: ``run``: folder of the run, as every node sees it; ``keys``: file of API keys, which a service that other
            machines reach must have; ``replicas``: MIN or MIN:MAX; ``feedback``: folder of readers' verdicts.

    Raises:
        ConfigError: an unknown or missing argument, or a run that is missing or unfinished.
    """
    if not _NEEDED <= set(args) <= _ALLOWED:
        raise ConfigError(
            f"args of serve.cluster:build are {sorted(args)}; it needs {', '.join(sorted(_NEEDED))} and takes "
            f"{', '.join(sorted(_ALLOWED - _NEEDED))}"
        )
    feedback = args.get("feedback")
    settings = Settings(Path(str(args["keys"])), None if feedback is None else Path(str(feedback)))
    replicas = parse_replicas(str(args.get("replicas", "1")))
    return application(load_artifacts(Path(str(args["run"]))), Limits(), settings, replicas)
