"""`boxmed serve` and `boxmed keys list`: from options to what serve/ takes."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from boxmed_ray.config import ConfigError
from serve.app import Serving, run
from serve.desk import Settings
from serve.keys import KeyFile
from serve.replicas import Replicas
from serve.security import Limits, is_loopback

_MOST_REPLICAS = 1000


def start(
    folder: Path,
    host: str,
    port: int,
    keys: Path | None,
    adapters: Sequence[str],
    replicas: str,
    waiting: int,
    feedback: Path | None,
    feedback_images: bool,
    origins: Sequence[str],
) -> None:
    """Check the options and serve.

    Raises:
        ConfigError: an option is not what it should be, there is no key, or what ``serve.app.run`` raises.
    """
    if keys is not None:
        keys = keys.expanduser().resolve()
        if not any(not key.revoked for key in KeyFile(keys).held()):
            raise ConfigError(
                f"{keys} holds no key; make one with `boxmed keys add NAME`, or serve only this machine with --no-auth"
            )
    if feedback_images and feedback is None:
        raise ConfigError("--feedback-images needs --feedback FOLDER")
    settings = Settings(keys, _writable(feedback), feedback_images, tuple(origins), loopback=is_loopback(host))
    run(Serving(folder, host, port, _adapters(adapters), settings, parse_replicas(replicas), Limits(waiting=waiting)))


def show_keys(path: Path) -> None:
    """Print the keys of a file: names, never hashes."""
    table = Table("name", "id in logs", "since", "a minute", "")
    for key in KeyFile(path).held():
        since = time.strftime("%Y-%m-%d", time.localtime(key.created))
        table.add_row(key.name, key.id, since, str(key.per_minute), "revoked" if key.revoked else "")
    Console().print(table)


def _adapters(given: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals or not folder or name in found:
            raise ConfigError(f"--adapter {one}: write NAME=FOLDER, each name once")
        found[name] = Path(folder)
    return found


def parse_replicas(given: str) -> Replicas:
    """``MIN`` or ``MIN:MAX``.

    Raises:
        ConfigError: it is neither.
    """
    match = re.fullmatch(r"(\d+)(?::(\d+))?", given)
    least = int(match[1]) if match else 0
    most = int(match[2] or least) if match else 0
    if not 1 <= least <= most <= _MOST_REPLICAS:
        raise ConfigError(f"--replicas {given}: write MIN or MIN:MAX, from 1 to {_MOST_REPLICAS}")
    return Replicas(least, most)


def _writable(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    place = folder.expanduser().resolve()
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / ".writable").touch()
        (place / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"--feedback {folder}: cannot be written ({error.strerror}); name another folder") from error
    return place
