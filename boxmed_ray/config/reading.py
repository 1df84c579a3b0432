"""Reading a run's configuration from a recipe, a YAML file and ``--set``."""

from __future__ import annotations

import importlib.resources
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from boxmed_ray.config.base import ConfigError
from boxmed_ray.config.run import RunConfig

RECIPES = importlib.resources.files("boxmed_ray") / "recipes"


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(entry.name.removesuffix(".yaml") for entry in RECIPES.iterdir() if entry.name.endswith(".yaml"))


def load_config(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a shipped recipe or a YAML file and apply ``a.b=value`` overrides (values are YAML).

    Raises:
        ConfigError: unknown recipe, missing file, bad YAML, unknown key or wrong type; the message
            names the key, the value and the remedy.
    """
    path = Path(recipe)
    if recipe in recipe_names():
        return parse_config((RECIPES / f"{recipe}.yaml").read_text(), f"recipe {recipe}", overrides)
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"recipe {recipe!r} is unknown; use one of: {', '.join(recipe_names())}, or a .yaml file")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a YAML file or one of: {', '.join(recipe_names())}")
    return parse_config(path.read_text(), str(path), overrides)


def parse_config(text: str, where: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read YAML and apply ``a.b=value`` overrides; ``where`` names the text in errors.

    Raises:
        ConfigError: as ``load_config``.
    """
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not readable as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: must be a mapping of keys to values, found {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    return validate_config(values, where)


def validate_config(values: dict[str, Any], where: str) -> RunConfig:
    """Validate, turning pydantic's report into one message with key, value and what was expected."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(dict(item), where) for item in error.errors())) from None


def _explain(item: dict[str, Any], where: str) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}; known keys there: {', '.join(_known_keys(item['loc'][:-1]))}"
    message = item["msg"].removeprefix("Value error, ")
    if isinstance(item["input"], dict):  # keys that do not go together: the message names them
        return f"{where}: {key}: {message}" if key else f"{where}: {message}"
    return f"{where}: {key} = {item['input']!r}: {message}" if key else f"{where}: {message}"


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in loc:
        annotation = model.model_fields[str(part)].annotation
        choices = [annotation, *typing.get_args(annotation)]  # of an optional part, ``Part | None``
        found = next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if found is None:
            break
        model = found
    return list(model.model_fields)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: must be key=value, for example --set svr.steps=20")
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a group of keys")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: {text!r} is not readable as YAML") from error
