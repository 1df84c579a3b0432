"""From a request to the bytes of its image and its options, in either form.

What lives here: multipart and JSON bodies, and every refusal of one. What does not: decoding (images.py), routes.
No refusal holds a word of the request but names of our own fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import pydantic
from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from serve import images
from serve.security import RequestRefusedError

Options = TypeVar("Options", bound=BaseModel)
Body = TypeVar("Body", bound=BaseModel)

ACCEPTED = 'send multipart/form-data with the file field image, or application/json {"image": base64}'
_DECLARED_IMAGES = {"", "application/octet-stream", *images.MEDIA_TYPES, "image/jpg", "image/pjpeg", "image/x-png"}


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory (bodies are limited before they come here): patients' images never touch a disk."""

    spool_max_size = 1 << 62


class Sent(NamedTuple):
    """What a request held."""

    image: bytes
    options: Any


async def read_image(request: Request, options: type[Options], whole: type[BaseModel]) -> Sent:
    """The image of a request and its options.

    Args:
        request: multipart or JSON.
        options: model of the form fields beside the image.
        whole: model of the JSON body, ``options`` with the image in base64.

    Raises:
        RequestRefusedError: 415 wrong content type or encoding, 422 no image, more than one, or bad options.
    """
    kind = content_kind(request)
    if kind == "application/json":
        parsed: Any = read_json(await request.body(), whole, ACCEPTED)
        values = parsed.model_dump(exclude={"image"})
        return Sent(images.from_base64(parsed.image), options.model_validate(values))
    if kind == "multipart/form-data":
        return await _from_multipart(request, options)
    raise RequestRefusedError(415, f"this content type is not read; {ACCEPTED}")


async def read_images(request: Request, options: type[Options], most: int) -> tuple[list[bytes], Options]:
    """The images of a multipart request with many, and its options; refusals as of one image."""
    remedy = "send multipart/form-data with one file field images for each image"
    if content_kind(request) != "multipart/form-data":
        raise RequestRefusedError(415, f"this content type is not read; {remedy}")
    fields = await _fields(request, files=most + 1, fields=len(options.model_fields) + 1, remedy=remedy)
    uploads = [value for name, value in fields if name == "images"]
    if not uploads:
        raise RequestRefusedError(422, f"no image: the field images is missing; {remedy}")
    if len(uploads) > most:
        raise RequestRefusedError(413, f"more than {most} images; send the rest in another request")
    chosen = _options([(name, value) for name, value in fields if name != "images"], options, remedy)
    return [await _bytes(upload) for upload in uploads], chosen


def content_kind(request: Request) -> str:
    """The media type of a body.

    Raises:
        RequestRefusedError: 415, the body is compressed: what it grows to could not be bounded.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestRefusedError(415, "compressed bodies are not read; send the request without Content-Encoding")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def read_json(body: bytes, model: type[Body], remedy: str) -> Body:
    """``body`` as ``model``.

    Raises:
        RequestRefusedError: 422; it names the field and what is wrong, never its content.
    """
    try:
        return model.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise RequestRefusedError(422, f"the JSON body was refused: {_problem(error, model)}; {remedy}") from None


def _problem(error: pydantic.ValidationError, model: type[BaseModel]) -> str:
    # Only our own field names and pydantic's fixed words: never the input.
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return "it is not valid JSON"
    names = [part if _ours(part) else "…" for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return f"it has a key other than {', '.join(model.model_fields)}"
    return f"{'.'.join(str(name) for name in names) or 'body'}: {first['msg']}"


_OURS = {"image_url", "url", "text", "type", "role", "content", "include_usage", "detail"}


def _ours(part: Any) -> bool:
    """Whether a part of a location is a number or a name that some model of ours has, and not a key of the request."""
    return isinstance(part, int) or part in _OURS or part in _NAMES


_NAMES: set[str] = set()


def knows(models: Sequence[type[BaseModel]]) -> None:
    """Let refusals name the fields of ``models``."""
    for model in models:
        _NAMES.update(model.model_fields)


async def _from_multipart(request: Request, options: type[Options]) -> Sent:
    fields = await _fields(request, files=2, fields=len(options.model_fields) + 1, remedy=ACCEPTED)
    uploads = [value for name, value in fields if name == "image"]
    if not uploads:
        raise RequestRefusedError(422, f"no image: the field image is missing; {ACCEPTED}")
    if len(uploads) > 1:
        raise RequestRefusedError(422, "one image is read; send one image a request")
    chosen = _options([(name, value) for name, value in fields if name != "image"], options, ACCEPTED)
    return Sent(await _bytes(uploads[0]), chosen)


async def _fields(request: Request, files: int, fields: int, remedy: str) -> list[tuple[str, str | UploadFile]]:
    try:
        form = await _InMemoryParser(request.headers, request.stream(), max_files=files, max_fields=fields).parse()
    except MultiPartException as error:
        raise RequestRefusedError(422, f"the multipart body cannot be read; {remedy}") from error
    return form.multi_items()


def _options(fields: Sequence[tuple[str, str | UploadFile]], options: type[Options], remedy: str) -> Options:
    values: dict[str, str] = {}
    for name, value in fields:
        if name in values or isinstance(value, UploadFile):
            raise RequestRefusedError(422, f"a field beside the image is a file or comes twice; {remedy}")
        values[name] = value
    try:
        return options.model_validate(values)
    except pydantic.ValidationError as error:
        problem = _problem(error, options).replace("a key", "a field")
        raise RequestRefusedError(422, f"a form field was refused: {problem}; {remedy}") from None


async def _bytes(upload: str | UploadFile) -> bytes:
    if not isinstance(upload, UploadFile):
        raise RequestRefusedError(
            422, "the field image is text; send the file itself (curl -F image=@FILE). Paths and URLs are not read"
        )
    declared = (upload.content_type or "").partition(";")[0].strip().lower()
    if declared not in _DECLARED_IMAGES:
        raise RequestRefusedError(415, f"this kind of file is not read; send one of: {', '.join(images.MEDIA_TYPES)}")
    return await upload.read()
