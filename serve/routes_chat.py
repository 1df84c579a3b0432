"""OpenAI's ``/v1/chat/completions`` and ``/v1/models``, so that its client works unchanged.

What lives here: routes. What does not: what a chat may hold, and the forms of its answer (chat.py). Refusals are
problem+json as everywhere, with OpenAI's ``error`` object beside, which its client reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import FastAPI, Request
from PIL import Image
from starlette.responses import JSONResponse

from serve import chat
from serve.artifacts import BACKBONE
from serve.desk import Desk, HeldStream, pieces, request_id
from serve.openapi import problem_schema
from serve.questions import Completion, EngineDeadError, Question
from serve.reading import content_kind, read_json
from serve.routes_reports import REFUSALS
from serve.security import RequestRefusedError, problem_of

_STARTED = int(time.time())
_REMEDY = "see POST /v1/chat/completions in /docs"


def add_chat_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes to ``app``."""

    @app.get("/v1/models", responses={401: problem_schema("No key, or one that is not known.")}, tags=["chat"])
    async def models() -> dict[str, Any]:
        """The adapters by name, the run's first; backbone is the model without one."""
        return chat.models([*desk.service.adapters, BACKBONE], _STARTED)

    @app.get("/v1/models/{name:path}", responses={code: REFUSALS[code] for code in (401, 404)}, tags=["chat"])
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        found = BACKBONE if name == BACKBONE else desk.adapter(name)
        return dict(chat.models([found], _STARTED)["data"][0])

    @app.post(
        "/v1/chat/completions",
        responses=REFUSALS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": chat.ChatRequest.model_json_schema()}},
            }
        },
        tags=["chat"],
    )
    async def completions(request: Request) -> Any:
        """A conversation about one radiograph, or none, as OpenAI's API has it."""
        async with AsyncExitStack() as held:
            await held.enter_async_context(desk.seat())
            if content_kind(request) != "application/json":
                raise RequestRefusedError(415, f"a chat is application/json; {_REMEDY}")
            asked = read_json(await desk.arrived(request.body()), chat.ChatRequest, _REMEDY)
            adapter = None if asked.model == BACKBONE else desk.adapter(asked.model)
            data, question = chat.read_chat(asked, adapter, desk.service.answer_tokens, desk.limits.tokens)
            seen = None if data is None else (await desk.radiograph(data)).seen
            name = request_id(request)
            if asked.stream:
                usage = asked.stream_options is not None and asked.stream_options.include_usage
                answer = _streamed(desk, name, asked.model, seen, question, usage)
                return HeldStream(answer, held.pop_all(), "text/event-stream")
            completion = await desk.answered(desk.service.ask(seen, question))
            _fits(completion)
            return JSONResponse(chat.whole(name, asked.model, completion))


def _fits(completion: Completion) -> None:
    if completion.prompt_tokens == 0:
        raise RequestRefusedError(422, "the conversation is longer than the model reads; send less of it")


async def _streamed(
    desk: Desk, name: str, model: str, seen: Image.Image | None, question: Question, usage: bool
) -> AsyncIterator[str]:
    first = True
    try:
        async with asyncio.timeout(desk.limits.answer_s):
            async for piece in pieces(lambda told: desk.service.ask(seen, question, lambda _, text: told(text))):
                if isinstance(piece, str):
                    yield chat.chunk(name, model, piece, first)
                    first = False
                    continue
                _fits(piece[0])
                for event in chat.ending(name, model, piece[0], usage):
                    yield event
    except RequestRefusedError as error:
        yield chat.failure(problem_of(error.status, error.detail, name))
    except (TimeoutError, EngineDeadError) as error:
        detail = "the engine has stopped" if isinstance(error, EngineDeadError) else "it took too long"
        yield chat.failure(problem_of(503, f"{detail}; come back later", name))
