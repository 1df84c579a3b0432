"""A published backbone as a local folder.

What lives here: a hub's name turned into the folder of its files. What does not: loading them (policy.py).
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from boxmed_ray.config import ConfigError

_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]


def local_folder(name_or_path: str) -> Path:
    """The folder itself, or the hub cache's folder of that name, downloaded where it is missing.

    With several nodes the cache (``HF_HOME``) must be storage that all of them see.

    Raises:
        ConfigError: it is neither here nor can be had.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name_or_path, allow_patterns=_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigError(
            f"model.name_or_path = {name_or_path!r}: no such folder, and not to be had from the hub "
            f"({str(error).splitlines()[0]}); download it where there is a network and give its folder"
        ) from error
