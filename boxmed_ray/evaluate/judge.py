"""Asking a language model that judges reports, over the OpenAI protocol.

What lives here: questions out, replies back in their order, each asked once for all runs that share a folder. What
does not: what is asked and how a reply is read (green.py, gema.py).

Replies are greedy (temperature 0) and kept in ``judge.jsonl`` as they come, so that an evaluation that was cut off
goes on where it was, and one that is repeated costs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boxmed_ray.config import ConfigError, JudgeConfig

if TYPE_CHECKING:
    from openai import AsyncOpenAI

FILE: Final = "judge.jsonl"
_CHECK_S: Final = 20.0
Schema = Mapping[str, Any]
_OTHER_PROTOCOL: Final = "answers, but not as OpenAI's protocol has it; correct url (it ends in /v1 mostly)"
_PLACES = re.compile(r"\{reference\}|\{candidate\}")


class JudgeError(RuntimeError):
    """The endpoint cannot be asked. The message names it, what it said and the remedy."""


class Judge:
    """A judge at its endpoint.

    Args:
        config: where it is.
        folder: keeps ``judge.jsonl``.

    Raises:
        ConfigError: the variable of the key is not set.
    """

    def __init__(self, config: JudgeConfig, folder: Path) -> None:
        self._config = config
        self._path = folder / FILE
        self._key = _key(config)

    def ask(self, questions: Sequence[str], schema: Schema | None = None) -> list[str | None]:
        """The reply to each question; None where it was longer than ``max_tokens`` or empty.

        Args:
            questions: one user turn each.
            schema: JSON schema that the endpoint holds replies to; None lets it write freely.

        Raises:
            JudgeError: the endpoint cannot be reached, refuses, or fails after ``retries``.
        """
        known = self._known()
        keys = [self._digest(question, schema) for question in questions]
        missing = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        if missing:
            asyncio.run(self._ask_all(missing, schema, known))
        return [known[key] for key in keys]

    def check(self) -> None:
        """Ask the endpoint which models it serves; one that does not say is taken at its word.

        Raises:
            ConfigError: it does not answer, refuses the key, or serves other models.
        """
        from openai import APIConnectionError, APIStatusError, OpenAI

        config = self._config
        with OpenAI(base_url=config.url, api_key=self._key, timeout=min(_CHECK_S, config.timeout_s)) as client:
            try:
                served = [model.id for model in client.models.list()]
            except (
                ValueError,
                TypeError,
                AttributeError,
            ) as error:  # no JSON, or another; the client lets both through
                raise ConfigError(f"judge {config.model!r} at {config.url} {_OTHER_PROTOCOL}") from error
            except APIConnectionError as error:
                raise ConfigError(
                    f"judge {config.model!r} at {config.url} does not answer: {error}; start it"
                ) from error
            except APIStatusError as error:
                if error.status_code not in (401, 403):
                    return
                raise ConfigError(
                    f"judge {config.model!r} at {config.url} refuses: {error.status_code}; {_remedy(error.status_code)}"
                ) from error
        if config.model not in served:
            raise ConfigError(
                f"{config.url} does not serve judge {config.model!r} but {', '.join(served) or 'nothing'}"
            )

    def _digest(self, question: str, schema: Schema | None) -> str:
        asked = [self._config.model, self._config.max_tokens, question, schema]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def _known(self) -> dict[str, str | None]:
        known: dict[str, str | None] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # cut off while it was written: asked again
                continue
            known[row["key"]] = row["reply"]
        return known

    async def _ask_all(self, missing: Mapping[str, str], schema: Schema | None, known: dict[str, str | None]) -> None:
        from openai import AsyncOpenAI

        self._path.parent.mkdir(parents=True, exist_ok=True)
        room = asyncio.Semaphore(self._config.concurrency)
        client = AsyncOpenAI(
            base_url=self._config.url,
            api_key=self._key,
            timeout=self._config.timeout_s,
            max_retries=self._config.retries,
        )
        with self._path.open("a", encoding="utf-8") as file:

            async def one(key: str, question: str) -> None:
                async with room:
                    known[key] = await self._reply(client, question, schema)
                file.write(json.dumps({"key": key, "reply": known[key]}) + "\n")
                file.flush()

            if file.tell() and not self._path.read_bytes().endswith(b"\n"):
                file.write("\n")  # after a line that was cut off
            async with client:
                tasks = [asyncio.create_task(one(key, question)) for key, question in missing.items()]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()

    async def _reply(self, client: AsyncOpenAI, question: str, schema: Schema | None) -> str | None:
        from openai import APIConnectionError, APIStatusError

        form: Any = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
        options = {} if schema is None else {"response_format": form}
        config = self._config
        try:
            answer = await client.chat.completions.create(
                model=config.model,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                max_tokens=config.max_tokens,
                **options,
            )
        except APIConnectionError as error:  # a time-out is one too
            raise JudgeError(
                f"judge {config.model!r} at {config.url} does not answer: {error}; "
                "start it, correct its url, or raise its timeout_s; replies so far are kept"
            ) from error
        except APIStatusError as error:
            raise JudgeError(
                f"judge {config.model!r} at {config.url} refuses: {error.status_code} {error.message[:300]}; "
                f"{_remedy(error.status_code)}"
            ) from error
        except ValueError as error:  # says that it is JSON and is not
            raise JudgeError(f"judge {config.model!r} at {config.url} {_OTHER_PROTOCOL}") from error
        try:
            choice = answer.choices[0]
            return choice.message.content or None if choice.finish_reason == "stop" else None
        except (AttributeError, IndexError, TypeError) as error:  # the client does not check what it gives back
            raise JudgeError(f"judge {config.model!r} at {config.url} {_OTHER_PROTOCOL}") from error


def fill(template: str, reference: str, candidate: str) -> str:
    """A question about one pair of reports; braces in the reports are left alone."""
    texts = {"{reference}": reference, "{candidate}": candidate}
    return _PLACES.sub(lambda match: texts[match[0]], template)


def read_question(config: JudgeConfig) -> str | None:
    """The question of ``question_file``, or None where our own is asked.

    Raises:
        ConfigError: the file cannot be read, or lacks a place for one of the reports.
    """
    if config.question_file is None:
        return None
    try:
        text = config.question_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"question_file {config.question_file}: cannot be read: {error}") from error
    for place in ("{reference}", "{candidate}"):
        if text.count(place) != 1:
            raise ConfigError(
                f"question_file {config.question_file}: must hold {place} once, has it {text.count(place)} times"
            )
    return text


def _key(config: JudgeConfig) -> str:
    if config.key_variable is None:
        return "none"  # the client insists on one; servers without keys ignore it
    key = os.environ.get(config.key_variable)
    if not key:
        raise ConfigError(
            f"the key of judge {config.model!r} is missing; set the environment variable {config.key_variable}"
        )
    return key


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "set key_variable to the environment variable that holds its key"
    if status == 404:
        return "correct url (it ends in /v1 mostly) or model (GET /models lists what is served)"
    if status in (400, 422):
        return "the question may be longer than its context, or it knows no JSON schemas"
    return "look into its log; replies so far are kept"
