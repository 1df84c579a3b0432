"""OpenAI's chat completions over the engine: what a request may hold, and the two forms of an answer.

What lives here: messages into a question, completions into OpenAI's JSON, streamed or whole. What does not: routes
(api.py). The fields are those of OpenAI's API reference; what the engine cannot do is refused, not left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.grounded import without_control
from serve.images import from_base64
from serve.questions import Completion, Question, Sampling
from serve.schemas import Problem
from serve.security import RequestRefusedError

_DATA = ("data:image/png;base64,", "data:image/jpeg;base64,", "data:application/dicom;base64,")


class ImageUrl(BaseModel):
    """An image within a message; only the data: form is read."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class TextPart(BaseModel):
    """Words."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """An image, before or between words."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(BaseModel):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    name: str | None = Field(None, description="Read and not used.")


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """Body of ``POST /v1/chat/completions``."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "phantom-cpu",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo…"}},
                                {"type": "text", "text": "Write the findings of this chest X-ray."},
                            ],
                        }
                    ],
                    "temperature": 0,
                }
            ]
        },
    )

    model: str = Field(description="A name from GET /v1/models: of an adapter, or backbone.")
    messages: list[Message] = Field(min_length=1, max_length=64)
    max_tokens: int | None = Field(None, ge=1, description="Tokens of the answer at most. Default: the run's.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same by its newer name.")
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy, and the default here.")
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: str | list[str] | None = Field(None, description="At most four texts that end the answer.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = Field(None, description="Read and not used; never logged.")
    metadata: dict[str, str] | None = Field(None, description="Read and not used; never logged.")
    store: Literal[False] | None = None


def read_chat(request: ChatRequest, adapter: str | None, tokens: int, most: int) -> tuple[bytes | None, Question]:
    """The image of a conversation, if it has one, and the question.

    Args:
        request: as it came.
        adapter: the one that the model's name stands for, or None.
        tokens: of the answer where the request names no number.
        most: of the answer.

    Raises:
        RequestRefusedError: 422 more than one image, an address instead of an image, too many or empty stops.
    """
    found: list[bytes] = []
    turns = tuple(
        # A developer turn is what newer clients call a system turn.
        {"role": "system" if message.role == "developer" else message.role, "content": _content(message, found)}
        for message in request.messages
    )
    if len(found) > 1:
        raise RequestRefusedError(422, "one image can be asked about at a time; send one image_url in all messages")
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stop) > 4 or not all(stop):
        raise RequestRefusedError(422, "stop takes at most four texts, none of them empty")
    asked = request.max_completion_tokens or request.max_tokens or tokens
    sampling = Sampling(request.temperature, request.top_p, request.seed, tuple(stop))
    return (found[0] if found else None), Question(None, None, min(asked, most), adapter, sampling, turns)


def _content(message: Message, found: list[bytes]) -> str | list[dict[str, str]]:
    if isinstance(message.content, str):
        return without_control(message.content)
    parts: list[dict[str, str]] = []
    for part in message.content:
        if isinstance(part, TextPart):
            # Templates put neighbours together as they are: halves of a control token must meet before they are read.
            before = parts.pop()["text"] if parts and parts[-1]["type"] == "text" else ""
            parts.append({"type": "text", "text": without_control(before + part.text)})
            continue
        if message.role != "user":
            raise RequestRefusedError(422, "only a user turn may hold an image")
        found.append(_data_url(part.image_url.url))
        parts.append({"type": "image"})
    return parts


def _data_url(url: str) -> bytes:
    for start in _DATA:
        if url[: len(start)].lower() == start:
            return from_base64(url[len(start) :])
    raise RequestRefusedError(
        422, f"image_url must be one of {', '.join(start + '…' for start in _DATA)}; nothing is fetched from addresses"
    )


def whole(request_id: str, model: str, completion: Completion) -> dict[str, Any]:
    """The answer in one piece."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": completion.text, "refusal": None},
        "logprobs": None,
        "finish_reason": _finish(completion),
    }
    return {**_head(request_id, model, "chat.completion"), "choices": [choice], "usage": _usage(completion)}


def chunk(request_id: str, model: str, text: str, first: bool) -> str:
    """A piece of a streamed answer, as a server-sent event."""
    delta = ({"role": "assistant"} if first else {}) | {"content": text}
    return _event(request_id, model, [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])


def ending(request_id: str, model: str, completion: Completion, usage: bool) -> list[str]:
    """The events that end a streamed answer."""
    choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": _finish(completion)}
    last = [_event(request_id, model, [choice])]
    if usage:
        last.append(_event(request_id, model, [], _usage(completion)))
    return [*last, "data: [DONE]\n\n"]


def failure(problem: Problem) -> str:
    """The event that ends a stream instead, in the form that OpenAI's client raises."""
    return f"data: {json.dumps({'error': openai_error(problem)})}\n\n"


def openai_error(problem: Problem) -> dict[str, Any]:
    """A problem as OpenAI's error object."""
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    return {"message": problem.detail, "type": kind, "param": None, "code": problem.status}


def models(names: Sequence[str], created: int) -> dict[str, Any]:
    """The answer of ``GET /v1/models``."""
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": created, "owned_by": "boxmed"} for name in names],
    }


def _head(request_id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{request_id}", "object": kind, "created": int(time.time()), "model": model}


def _event(request_id: str, model: str, choices: list[Any], usage: dict[str, Any] | None = None) -> str:
    held = {**_head(request_id, model, "chat.completion.chunk"), "choices": choices}
    return f"data: {json.dumps(held | ({'usage': usage} if usage else {}))}\n\n"


def _finish(completion: Completion) -> str:
    return "length" if completion.truncated else "stop"


def _usage(completion: Completion) -> dict[str, Any]:
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.tokens,
        "total_tokens": completion.prompt_tokens + completion.tokens,
        "prompt_tokens_details": {"cached_tokens": completion.cached_tokens},
    }
