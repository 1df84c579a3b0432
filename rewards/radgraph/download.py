"""The published archives, from where their authors keep them.

What lives here: fetching. What does not: reading an archive (archive.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rewards.radgraph.archive import BY_HAND, unpack
from rewards.radgraph.words import Variant
from rewards.scorers import published_folder

REPOSITORY: Final = "StanfordAIMI/RRG_scorers"


def published_archive(variant: Variant) -> Path:
    """The archive of a published model, downloaded from the Hugging Face Hub on first use (0.4 GB).

    It is unpacked into ``$XDG_CACHE_HOME/boxmed-rl`` (``~/.cache/boxmed-rl``).

    Raises:
        FileNotFoundError: it is not here and cannot be downloaded.
    """
    folder = published_folder(variant)
    if not folder.exists():
        unpack(_download(f"{variant}.tar.gz"), folder)
    return folder


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(REPOSITORY, name))
    except (OSError, HfHubHTTPError) as error:
        raise FileNotFoundError(f"{name} cannot be downloaded ({type(error).__name__}); {BY_HAND}") from error
