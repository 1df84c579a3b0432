from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

import serve.app
from boxmed_ray.config import ConfigError, RunConfig
from serve.app import Serving, _check_port, run
from serve.artifacts import Adapter, Artifacts
from serve.desk import Settings
from serve.security import is_loopback


def test_a_missing_run_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run folder"):
        run(Serving(tmp_path / "nowhere", settings=Settings(keys=tmp_path / "keys")))


def test_without_keys_only_this_machine_is_served(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without keys only this machine"):
        run(Serving(tmp_path, host="0.0.0.0"))


def test_a_taken_port_is_told_with_a_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} of 127.0.0.1 is in use.*--port"):
            _check_port("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("203.0.113.7", 8000), ("not a host", 8000)])
def test_an_address_that_cannot_be_had_is_told(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=str(port)):
        _check_port(host, port)


def test_a_free_port_is_accepted_again_after_the_check() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _check_port("127.0.0.1", port)
    _check_port("127.0.0.1", port)


def test_only_this_machine_is_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"))


def test_a_machine_too_busy_to_start_on_is_told_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.serve

    asked = []

    def late(**options: object) -> None:
        asked.append(options)
        raise TimeoutError("HTTP proxies not available after 60s.")

    monkeypatch.setattr(serve.app, "ray_session", lambda **_: contextlib.nullcontext())
    monkeypatch.setattr(ray.serve, "start", late)
    held = Artifacts(RunConfig(), Path(), "b", (Adapter("a", Path(), "v", 8),), None)
    with pytest.raises(ConfigError, match=r"not available after 60s\. The machine is busy; try again"):
        serve.app._serve(held, Serving(Path()), serve.app._Signals())
    assert len(asked) == 2  # the first wait is not the last
