"""From epochs to steps, once it is known how much there is to train on.

What lives here: the number of examples in a pass of each stage. What does not: drawing them (data/examples.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from boxmed_ray.config import MCLConfig, RunConfig
from boxmed_ray.data.examples import grounded_findings, stated_findings
from boxmed_ray.data.study import Study


def with_steps(config: RunConfig, studies: Sequence[Study]) -> RunConfig:
    """The config with ``steps`` set where a stage says ``epochs``.

    Args:
        config: of the run.
        studies: of the training split.
    """
    grounded = sum(len(grounded_findings(study)) for study in studies)
    passes = {
        "mcl": (config.mcl.epochs, _concepts(config.mcl, studies, grounded), config.mcl.batch_size),
        "svr": (config.svr.epochs, grounded, config.svr.prompts_per_step),
        "adapter": (config.adapter.epochs, sum(bool(study.report) for study in studies), config.adapter.batch_size),
    }
    update = {
        stage: getattr(config, stage).model_copy(update={"steps": max(1, math.ceil(epochs * count / batch))})
        for stage, (epochs, count, batch) in passes.items()
        if epochs is not None
    }
    return config.model_copy(update=update)


def _concepts(mcl: MCLConfig, studies: Sequence[Study], grounded: int) -> int:
    """Different examples that MCL can ask for."""
    chains = sum(bool(stated_findings(study)) for study in studies) if mcl.grounding_share < 1 else 0
    return chains + (grounded if mcl.grounding_share > 0 else 0)
