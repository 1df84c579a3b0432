"""From epochs to steps, once it is known how much there is to train on.

What lives here: the number of examples in a pass of each stage. What does not: drawing them (data/examples.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from boxmed_ray.config import MCLConfig, RunConfig
from boxmed_ray.data.examples import grounded_findings, joint_studies, stated_findings
from boxmed_ray.data.study import Study


def with_steps(config: RunConfig, studies: Sequence[Study]) -> RunConfig:
    """The config with ``steps`` set where a stage says ``epochs``.

    Args:
        config: of the run.
        studies: of the training split.
    """
    there = {
        "grounding": sum(len(grounded_findings(study)) for study in studies),
        "report": sum(bool(study.report) for study in studies),
        "joint": len(joint_studies(studies)),
    }
    passes = {
        "mcl": (config.mcl.epochs, _supervised(config.mcl, studies, there), config.mcl.batch_size),
        "svr": (config.svr.epochs, sum(there[task] for task in config.svr.shares), config.svr.prompts_per_step),
        "adapter": (config.adapter.epochs, there["report"], config.adapter.batch_size),
    }
    update = {
        stage: getattr(config, stage).model_copy(update={"steps": max(1, math.ceil(epochs * count / batch))})
        for stage, (epochs, count, batch) in passes.items()
        if epochs is not None
    }
    return config.model_copy(update=update)


def _supervised(mcl: MCLConfig, studies: Sequence[Study], there: Mapping[str, int]) -> int:
    """Different examples that MCL can ask for."""
    chains = sum(bool(stated_findings(study) or study.report) for study in studies) if mcl.grounding_share < 1 else 0
    shares = {"grounding": mcl.grounding_share, "report": mcl.report_share, "joint": mcl.joint_share}
    return chains + sum(there[task] for task, share in shares.items() if share > 0)
