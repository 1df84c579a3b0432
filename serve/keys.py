"""API keys: a file of their hashes, and how often each may ask.

What lives here: making, revoking and checking keys, and the rate of each. What does not: reading a request's header
(guard.py). A key is 32 random bytes, so a plain SHA-256 of it cannot be guessed back, and no key is ever stored.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from boxmed_ray.config import ConfigError

_PREFIX = "bxm_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")
DEFAULT_PER_MINUTE = 120


@dataclass(frozen=True, slots=True)
class Key:
    """What is stored of a key.

    Attributes:
        name: who holds it; shown in lists, never in logs of requests.
        digest: SHA-256 of the key, hexadecimal.
        created: seconds since 1970.
        per_minute: requests that it may make in a minute.
        revoked: it is refused from now on.
    """

    name: str
    digest: str
    created: int
    per_minute: int = DEFAULT_PER_MINUTE
    revoked: bool = False

    @property
    def id(self) -> str:
        """By which logs and metrics tell keys apart: the beginning of its digest."""
        return self.digest[:8]


class KeyFile:
    """The keys of a file, read anew when it changes, so that a revoked key is refused within a second."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()
        self._stamp: tuple[int, int] | None = None
        self._looked = 0.0
        self._keys: dict[str, Key] = {}

    def held(self) -> list[Key]:
        """All of them, the revoked ones too.

        Raises:
            ConfigError: the file cannot be read, or is not one of keys.
        """
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path}: cannot be read as a file of keys ({error})") from error
        try:
            return [_key(item) for item in json.loads(text)["keys"]]
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{self._path}: not a file of keys; move it away and make keys with `boxmed keys add`"
            ) from error

    def add(self, name: str, per_minute: int = DEFAULT_PER_MINUTE) -> str:
        """Make a key and store its hash.

        Returns:
            The key. It is not stored: whoever loses it needs another.

        Raises:
            ConfigError: the name is taken or not one, or the file cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"key name {name!r}: up to 64 letters, digits, blanks, . _ @ -; a letter or digit first")
        made = _PREFIX + secrets.token_urlsafe(32)
        with self._alone():
            held = self.held()
            if any(key.name == name and not key.revoked for key in held):
                raise ConfigError(f"there is a key named {name!r}; revoke it first or choose another name")
            self._write([*held, Key(name, _digest(made), int(time.time()), per_minute)])
        return made

    def revoke(self, name: str) -> None:
        """Refuse the key of that name from now on.

        Raises:
            ConfigError: there is none.
        """
        with self._alone():
            held = self.held()
            if not any(key.name == name and not key.revoked for key in held):
                names = ", ".join(sorted(key.name for key in held if not key.revoked)) or "none"
                raise ConfigError(f"no key named {name!r} in {self._path}; there are: {names}")
            self._write([replace(key, revoked=True) if key.name == name else key for key in held])

    def find(self, given: str) -> Key | None:
        """The stored key that ``given`` is, unless there is none or it is revoked.

        Looking a digest up in a table tells nothing by its time: whoever could choose digests would have broken
        SHA-256.
        """
        self._refresh()
        key = self._keys.get(_digest(given))
        return None if key is None or key.revoked else key

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._stamp is not None and now - self._looked < 1:
            return
        self._looked = now
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
        except OSError:  # reading it says what is wrong
            stamp = (0, 0)
        if stamp != self._stamp:
            self._stamp = None  # a file that cannot be read is tried anew by each request, and none is let in meanwhile
            self._keys = {key.digest: key for key in self.held()}
            self._stamp = stamp

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process changes the file meanwhile: a key that one adds must not take back what another revoked."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written ({error.strerror}); name another") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, keys: list[Key]) -> None:
        beside = self._path.with_name(f".{self._path.name}.new")
        try:
            # Nobody else may read it, from its first byte on.
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump({"keys": [asdict(key) for key in keys]}, file, indent=1)
            beside.replace(self._path)
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written ({error.strerror}); name another") from error


class Rates:
    """How much of its minute each key has used: a bucket of ``per_minute`` that fills evenly. One for each replica."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: Key) -> float:
        """Take one request of ``key``; 0, or seconds until there will be one."""
        now, rate = time.monotonic(), key.per_minute / 60
        held, since = self._buckets.get(key.digest, (float(key.per_minute), now))
        held = min(float(key.per_minute), held + (now - since) * rate)
        if held < 1:
            self._buckets[key.digest] = (held, now)
            return (1 - held) / rate
        self._buckets[key.digest] = (held - 1, now)
        return 0.0


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _key(item: dict[str, Any]) -> Key:
    key = Key(**item)
    if not (isinstance(key.digest, str) and re.fullmatch(r"[0-9a-f]{64}", key.digest) and int(key.per_minute) > 0):
        raise ValueError
    return key
