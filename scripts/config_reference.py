"""Write docs/configuration.md from the pydantic models: python scripts/config_reference.py

A test holds the file to what this writes.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from boxmed_ray.config import RunConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
_HEAD = """# Configuration

Every key of a recipe, what it means, its default and what it may be. `--set KEY=VALUE` takes any of them; an unknown
key or a value out of range is refused before anything starts. This page is written by `python
scripts/config_reference.py` from the models in `boxmed_ray/config/`.
"""
_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of", "min_length": "length ≥"}


def page() -> str:
    """The page's text."""
    return _HEAD + "".join(_section(title, note, rows) for title, note, rows in _sections(RunConfig, "")) + "\n"


def _sections(model: type[BaseModel], above: str) -> Iterator[tuple[str, str, list[str]]]:
    own, parts = [], []
    for name, field in model.model_fields.items():
        part = _part(field)
        if part is not None:
            parts.append((f"{above}{name}", part))
        if part is None or type(None) in typing.get_args(field.annotation):
            own.append(_row(f"{above}{name}", field))
    note = (model.__doc__ or "").strip().splitlines()[0]
    yield above.rstrip(".") or "The run", note, own
    for name, part in parts:
        yield from _sections(part, f"{name}.")


def _part(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a key that is a group of keys."""
    choices = [field.annotation, *typing.get_args(field.annotation)]
    return next((each for each in choices if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _section(title: str, note: str, rows: list[str]) -> str:
    if not rows:
        return f"\n## {title}\n\n{note}\n"
    return (
        f"\n## {title}\n\n{note}\n\n| key | meaning | default | range |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _row(key: str, field: FieldInfo) -> str:
    cells = (f"`{key}`", field.description or "", f"`{_default(field)}`", _range(field))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "none: must be given"
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_plain(each)}" for name, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_plain(each) for each in value) + "]"
    return _plain(value)


def _plain(value: Any) -> str:
    """As YAML has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _range(field: FieldInfo) -> str:
    kind = _kind(field.annotation)
    limits = []
    for each in _metadata(field):
        for name, word in _LIMITS.items():
            if getattr(each, name, None) is not None:
                limits.append(f"{word} {getattr(each, name):g}")
        if getattr(each, "pattern", None):
            limits.append(f"`{each.pattern}`")
    return ", ".join([kind, *limits])


def _metadata(field: FieldInfo) -> list[Any]:
    """Limits of the field, and of its annotation where they are a named type's."""
    found = list(field.metadata)
    for choice in typing.get_args(field.annotation):
        for each in typing.get_args(choice)[1:]:
            found += getattr(each, "metadata", [])
    return found


def _kind(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{_plain(each)}`" for each in arguments)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin is tuple:
        return "list of " + " and ".join(dict.fromkeys(_kind(each) for each in arguments if each is not Ellipsis))
    if origin is dict:
        return f"{_kind(arguments[0])} → {_kind(arguments[1])}"
    return " or ".join(_kind(each) for each in arguments) if arguments else _name(annotation)


def _name(kind: type) -> str:
    """Of a type without arguments, in words."""
    if issubclass(kind, BaseModel):
        return "group of keys"
    words = {str: "text", int: "whole number", float: "number", bool: "true, false", Path: "path", type(None): "null"}
    return words[kind]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
