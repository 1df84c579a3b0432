from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest

from boxmed_ray.config import ConfigError
from serve import keys
from serve.keys import Key, KeyFile, Rates


def test_a_key_is_stored_as_its_hash_alone_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "below" / "keys.json"
    made = KeyFile(path).add("reader")
    stored = json.loads(path.read_text())["keys"][0]
    assert stored["digest"] == hashlib.sha256(made.encode()).hexdigest()
    assert made not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_is_found_and_no_other_text_is(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    made = file.add("reader", per_minute=7)
    found = file.find(made)
    assert found is not None
    assert (found.name, found.per_minute) == ("reader", 7)
    assert [file.find(text) for text in (made[:-1], made + "x", made.upper(), "", found.digest)] == [None] * 5


def test_many_keys_are_held_and_one_revoked_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(keys.time, "monotonic", lambda: now)
    path = tmp_path / "keys.json"
    first, second = KeyFile(path).add("a"), KeyFile(path).add("b")
    serving = KeyFile(path)
    assert serving.find(first)
    assert serving.find(second)
    KeyFile(path).revoke("a")
    now += 1.1  # the file is looked at once a second
    assert serving.find(first) is None
    assert serving.find(second)
    assert KeyFile(path).add("a") != first  # the name is free again


@pytest.mark.parametrize("text", ["", "{", "[]", '{"keys": [{}]}', '{"keys": [{"name": "a", "digest": "x"}]}'])
def test_a_file_that_is_none_of_keys_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not a file of keys"):
        KeyFile(path).held()


def test_names_that_are_taken_or_none_are_refused(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.add("reader")
    for name in ("reader", "", "=cmd", "x" * 65, "a\nb"):
        with pytest.raises(ConfigError, match="name"):
            file.add(name)
    with pytest.raises(ConfigError, match="there are: reader"):
        file.revoke("writer")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be (written|read)"):
        KeyFile(tmp_path / "file" / "keys.json").add("a")


def test_a_minute_holds_as_many_requests_as_it_says_and_they_come_back_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(keys.time, "monotonic", lambda: now)
    rates, key, other = Rates(), Key("a", "a" * 64, 0, 6), Key("b", "b" * 64, 0, 6)
    assert [rates.take(key) for _ in range(6)] == [0.0] * 6
    assert rates.take(key) == pytest.approx(10)  # a sixth of a minute
    assert rates.take(other) == 0.0
    now = 9.9
    assert rates.take(key) == pytest.approx(0.1)
    now = 10.0
    assert rates.take(key) == 0.0
    assert rates.take(key) > 0
    now = 10_000.0
    assert [rates.take(key) for _ in range(7)].count(0.0) == 6


def test_of_writers_at_a_time_no_key_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=KeyFile(path).add, args=(f"k{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in KeyFile(path).held()) == [f"k{number}" for number in range(8)]
