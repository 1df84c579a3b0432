"""Pieces of the OpenAPI page that FastAPI cannot derive: bodies in two forms, and problems."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from serve.schemas import MEDIA_PROBLEM, Problem

_FILE = {"type": "string", "format": "binary", "description": "A PNG, JPEG or DICOM file."}


def problem_schema(description: str) -> dict[str, Any]:
    """A refusal."""
    return {"description": description, "content": {MEDIA_PROBLEM: {"schema": Problem.model_json_schema()}}}


def body_schema(options: type[BaseModel], whole: type[BaseModel] | None, many: bool = False) -> dict[str, Any]:
    """The body of a request with an image and ``options``; ``whole`` is its JSON form, ``many`` takes many images."""
    form = options.model_json_schema()
    name = "images" if many else "image"
    files = {"type": "array", "items": _FILE} if many else _FILE
    multipart = form | {
        "properties": {name: files, **form["properties"]},
        "required": [name, *form.get("required", [])],
    }
    content = {"multipart/form-data": {"schema": multipart}}
    if whole is not None:
        content["application/json"] = {"schema": whole.model_json_schema()}
    return {"required": True, "content": content}
