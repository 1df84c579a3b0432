"""A finished run folder, checked before anything heavy starts.

What lives here: which files serving needs, their versions, and the error that names what is missing.
What does not: loading them (engine.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from boxmed_ray.config import ConfigError, RunConfig, validate_config
from boxmed_ray.tracking import read_metrics

_MODEL_FILES = ("config.json", "tokenizer_config.json")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""transformers 5 writes the first, earlier ones the second; either will do."""
BACKBONE = "backbone"
"""By this name the model is asked without an adapter."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        name: by which it is asked for.
        folder: absolute.
        version: 16 hexadecimal digits of SHA-256 over its files.
        rank: of its matrices.
    """

    name: str
    folder: Path
    version: str
    rank: int

    @property
    def versioned(self) -> str:
        """Name under which the engine holds it; it changes with every version."""
        return f"{self.name}-{self.version}"


@dataclass(frozen=True, slots=True)
class Artifacts:
    """What is served. Paths are absolute; versions are 16 hexadecimal digits of SHA-256.

    ``adapters`` begin with the run's own, which has the run's name.
    """

    config: RunConfig
    backbone: Path
    backbone_version: str
    adapters: tuple[Adapter, ...]
    weight_version: int | None


def load_artifacts(run_folder: Path, more: Mapping[str, Path] | None = None) -> Artifacts:
    """Check a run folder and read what serving needs.

    Args:
        run_folder: of a finished run.
        more: folders of further adapters on the same backbone, by name.

    Raises:
        ConfigError: the folder or a part of it is missing or unreadable; the message names it and the remedy.
    """
    folder = run_folder.expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"{run_folder}: no such run folder; give one that `boxmed train` wrote, such as runs/NAME")
    config = _read_config(folder, run_folder)
    backbone, adapter = folder / "stages/svr/model", folder / "stages/adapter/adapter"
    missing = [backbone / name for name in _MODEL_FILES if not (backbone / name).is_file()]
    if not any((backbone / name).is_file() for name in _PROCESSOR_FILES):
        missing.append(backbone / _PROCESSOR_FILES[0])
    weights = sorted(backbone.glob("*.safetensors"))
    if not weights:
        missing.append(backbone / "model.safetensors")
    missing += [adapter / name for name in _ADAPTER_FILES if not (adapter / name).is_file()]
    if missing:
        names = ", ".join(str(path.relative_to(folder)) for path in missing)
        raise ConfigError(
            f"{run_folder}: the run is unfinished: missing {names}; "
            f"finish it with `boxmed train --resume {folder.name}`"
        )
    return Artifacts(
        # The folder may have been moved or renamed since: its name is what the user knows the run by.
        config=config.model_copy(update={"name": folder.name}),
        backbone=backbone,
        backbone_version=_digest(weights),
        adapters=(_adapter(folder.name, adapter), *_more_adapters(folder.name, more or {})),
        weight_version=_read_weight_version(folder),
    )


def _more_adapters(run: str, folders: Mapping[str, Path]) -> Iterator[Adapter]:
    for name, given in folders.items():
        folder = given.expanduser().resolve()
        missing = [file for file in _ADAPTER_FILES if not (folder / file).is_file()]
        if missing:
            raise ConfigError(f"--adapter {name}={given}: missing {', '.join(missing)}; give a folder that PEFT wrote")
        if name in (run, BACKBONE) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"--adapter {name}={given}: choose another name: letters, digits, . _ - and neither {run!r}, the "
                f"run's own adapter, nor {BACKBONE!r}"
            )
        yield _adapter(name, folder)


def _adapter(name: str, folder: Path) -> Adapter:
    version = _digest([folder / file for file in _ADAPTER_FILES])
    return Adapter(name, folder, version, _read_rank(folder / "adapter_config.json"))


def _read_config(folder: Path, shown: Path) -> RunConfig:
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{shown}: missing config.yaml; this is not a folder that `boxmed train` wrote")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values, found {type(values).__name__}")
    return validate_config(values, str(path))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as JSON; run the stage again") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a JSON object, found {type(values).__name__}")
    return values


def _read_rank(path: Path) -> int:
    rank = _read_json(path).get("r")
    if not isinstance(rank, int) or rank < 1:
        raise ConfigError(f"{path}: r = {rank!r}: must be the adapter's rank; run the adapter stage again")
    return rank


def _read_weight_version(folder: Path) -> int | None:
    """Learner updates behind the backbone, from the metrics of its last step; None where there are none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return None
    versions = [line.get("weight_version") for line in read_metrics(path) if line.get("stage") == "svr"]
    return next((version for version in reversed(versions) if isinstance(version, int)), None)


def _digest(paths: list[Path]) -> str:
    sha = hashlib.sha256()
    for path in paths:
        sha.update(path.name.encode())
        with path.open("rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()[:16]
