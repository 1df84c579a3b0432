"""Questions go out over real HTTP, replies come back in order and are kept, and failures name the remedy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from boxmed_ray.config import ConfigError, JudgeConfig
from boxmed_ray.evaluate.judge import FILE, Judge, JudgeError, fill, read_question
from tests.evaluate.endpoint import endpoint


def echo(body: dict[str, Any]) -> tuple[int, str, str]:
    return 200, "re: " + body["messages"][0]["content"], "stop"


def config(url: str, **others: Any) -> JudgeConfig:
    return JudgeConfig.model_validate({"url": url, "model": "judge", "retries": 0} | others)


def test_replies_come_in_the_order_of_the_questions_and_each_is_asked_once(tmp_path: Path) -> None:
    with endpoint(echo) as served:
        judge = Judge(config(served.url), tmp_path)
        assert judge.ask(["a", "b", "a"]) == ["re: a", "re: b", "re: a"]
        assert Judge(config(served.url), tmp_path).ask(["b", "c"]) == ["re: b", "re: c"]
    assert sorted(body["messages"][0]["content"] for body in served.requests) == ["a", "b", "c"]
    assert all(body["temperature"] == 0 and body["model"] == "judge" for body in served.requests)


def test_a_schema_travels_as_the_protocol_has_it_and_another_one_is_another_question(tmp_path: Path) -> None:
    schema = {"type": "object"}
    with endpoint(echo) as served:
        judge = Judge(config(served.url), tmp_path)
        judge.ask(["a"], schema)
        judge.ask(["a"])
    first, second = served.requests
    assert first["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": schema},
    }
    assert "response_format" not in second


def test_a_reply_that_was_cut_off_is_none_and_so_is_an_empty_one(tmp_path: Path) -> None:
    with endpoint(lambda body: (200, "half of it", "length")) as served:
        assert Judge(config(served.url), tmp_path).ask(["a"]) == [None]
    with endpoint(lambda body: (200, "", "stop")) as served:
        assert Judge(config(served.url), tmp_path).ask(["b"]) == [None]


def test_what_was_answered_before_a_failure_is_not_asked_again(tmp_path: Path) -> None:
    def fail_on_b(body: dict[str, Any]) -> tuple[int, str, str]:
        return (500, "out of memory", "") if body["messages"][0]["content"] == "b" else echo(body)

    with endpoint(fail_on_b) as served, pytest.raises(JudgeError, match=r"500 .*replies so far are kept"):
        Judge(config(served.url, concurrency=1), tmp_path).ask(["a", "b"])
    with endpoint(echo) as served:
        assert Judge(config(served.url), tmp_path).ask(["a", "b"]) == ["re: a", "re: b"]
        assert len(served.requests) == 1


def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    with endpoint(echo) as served:
        Judge(config(served.url), tmp_path).ask(["a"])
        path = tmp_path / FILE
        path.write_text(path.read_text()[:-8])
        assert Judge(config(served.url), tmp_path).ask(["a"]) == ["re: a"]
        assert len(served.requests) == 2
        assert Judge(config(served.url), tmp_path).ask(["a"]) == ["re: a"]
        assert len(served.requests) == 2


def test_a_failing_server_is_asked_again_as_often_as_the_config_says(tmp_path: Path) -> None:
    tries: list[int] = []

    def at_last(body: dict[str, Any]) -> tuple[int, str, str]:
        tries.append(1)
        return echo(body) if len(tries) == 2 else (503, "busy", "")

    with endpoint(at_last) as served:
        assert Judge(config(served.url, retries=1), tmp_path).ask(["a"]) == ["re: a"]


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "key_variable"), (404, "url .* or model"), (400, "context"), (500, "log")]
)
def test_a_refusal_names_the_endpoint_and_the_remedy(tmp_path: Path, status: int, remedy: str) -> None:
    with endpoint(lambda body: (status, "because", "")) as served, pytest.raises(JudgeError) as caught:
        Judge(config(served.url), tmp_path).ask(["a"])
    assert re.search(f"'judge' at {served.url} refuses: {status} .*because.*{remedy}", str(caught.value))


def test_an_endpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"does not answer.*start it"):
        Judge(config("http://127.0.0.1:9/v1"), tmp_path).ask(["a"])


@pytest.mark.parametrize(
    "raw",
    [
        ("text/html", "<html>Welcome</html>"),
        ("application/json", "<html>Welcome</html>"),
        ("application/json", "{}"),
        ("application/json", "[]"),
        ("application/json", "null"),
        ("application/json", '{"choices": [], "data": 3}'),
        ("application/json", '{"choices": [{"finish_reason": "stop"}], "data": [1]}'),
    ],
)
def test_rubbish_is_told_as_another_protocol(tmp_path: Path, raw: tuple[str, str]) -> None:
    with endpoint(echo, raw=raw) as served:
        with pytest.raises(JudgeError, match=r"not as OpenAI's protocol has it.*/v1"):
            Judge(config(served.url), tmp_path).ask(["a"])
        with pytest.raises(ConfigError, match=r"not as OpenAI's protocol has it.*/v1|does not serve"):
            Judge(config(served.url), tmp_path).check()


def test_a_check_tells_before_anything_is_asked_that_a_judge_is_not_there(tmp_path: Path) -> None:
    with endpoint(echo) as served:
        Judge(config(served.url), tmp_path).check()
        with pytest.raises(ConfigError, match=r"does not serve judge 'other' but judge"):
            Judge(config(served.url, model="other"), tmp_path).check()
    with endpoint(echo, models=None) as served:
        Judge(config(served.url), tmp_path).check()
    with pytest.raises(ConfigError, match=r"does not answer.*start it"):
        Judge(config("http://127.0.0.1:9/v1"), tmp_path).check()
    assert served.requests == []


def test_the_key_comes_from_the_variable_and_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "s3cret")
    with endpoint(echo) as served:
        Judge(config(served.url, key_variable="THE_KEY"), tmp_path).ask(["a"])
    assert served.keys == ["Bearer s3cret"]
    assert "s3cret" not in (tmp_path / FILE).read_text()
    monkeypatch.delenv("THE_KEY")
    with pytest.raises(ConfigError, match="THE_KEY"):
        Judge(config(served.url, key_variable="THE_KEY"), tmp_path)


def test_braces_in_reports_are_left_alone() -> None:
    assert fill("R {reference} C {candidate}", "{candidate}", "{x}") == "R {candidate} C {x}"


def test_a_question_file_needs_a_place_for_each_report(tmp_path: Path) -> None:
    path = tmp_path / "question.txt"
    asked = config("http://x/v1", form="published", question_file=str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_question(asked)
    path.write_text("{reference} only")
    with pytest.raises(ConfigError, match=r"\{candidate\} once, has it 0 times"):
        read_question(asked)
    path.write_text("{reference} and {candidate}")
    assert read_question(asked) == path.read_text()
    assert read_question(config("http://x/v1")) is None


def test_form_and_question_file_belong_together() -> None:
    for others in ({"form": "published"}, {"question_file": "q.txt"}):
        with pytest.raises(ValueError, match="question_file"):
            config("http://x/v1", **others)


def test_what_is_kept_is_json_lines(tmp_path: Path) -> None:
    with endpoint(echo) as served:
        Judge(config(served.url), tmp_path).ask(["a\nb"])
    [line] = (tmp_path / FILE).read_text().splitlines()
    assert json.loads(line)["reply"] == "re: a\nb"
