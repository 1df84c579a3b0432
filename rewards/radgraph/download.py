"""The published archives, from where their authors keep them.

What lives here: fetching. What does not: reading an archive (archive.py).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from rewards.radgraph.archive import BY_HAND
from rewards.radgraph.words import Variant

REPOSITORY: Final = "StanfordAIMI/RRG_scorers"


def published_archive(variant: Variant) -> Path:
    """The archive of a published model, downloaded from the Hugging Face Hub on first use (0.4 GB).

    It is kept in ``$XDG_CACHE_HOME/boxmed-rl`` (``~/.cache/boxmed-rl``), beside what it unpacks to.

    Raises:
        FileNotFoundError: it is not here and cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    name = f"{variant}.tar.gz"
    kept = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "boxmed-rl" / name
    if not kept.exists():
        try:
            found = hf_hub_download(REPOSITORY, name)
        except (OSError, HfHubHTTPError) as error:
            raise FileNotFoundError(f"{name} cannot be downloaded ({type(error).__name__}); {BY_HAND}") from error
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, kept)
    return kept
