"""`boxmed export`: the model of a checkpoint of SVR, such as the best one, as a folder of its own.

What lives here: which checkpoint is meant, and refusing what cannot be exported. What does not: the model
(model/export.py).
"""

from __future__ import annotations

from pathlib import Path

from boxmed_ray.checkpoint import PREFIX, Checkpoint, CheckpointStore, read_checkpoint
from boxmed_ray.config import ConfigError, parse_config


def export(run: Path, target: Path, which: str) -> None:
    """Write the model of a checkpoint to ``target`` and say which it was.

    Args:
        run: folder of a run.
        target: must not exist.
        which: ``best``, ``last``, a number of updates, or ``merged`` for the newest model with the adapter in it.

    Raises:
        ConfigError: the run, its backbone or the checkpoint is missing, or the target exists.
        CheckpointError: the checkpoint is damaged.
    """
    path, backbone = run / "config.yaml", run / "stages" / "mcl" / "model"
    if not path.is_file() or not backbone.is_dir():
        raise ConfigError(
            f"{run}: is no run folder with config.yaml and stages/mcl/model; give one in which MCL is done"
        )
    if target.exists():
        raise ConfigError(f"--to {target}: exists; give a folder that does not")
    from boxmed_ray.model.export import export_merged, export_model

    if which == "merged":
        export_merged(parse_config(path.read_text(), str(path)), *_backbone_and_adapter(run), target)
        print(f"{target}: the newest model with the adapter merged into it")
        return
    found = _checkpoint(CheckpointStore(run / "stages" / "svr" / "checkpoints"), which)
    target.parent.mkdir(parents=True, exist_ok=True)
    export_model(parse_config(path.read_text(), str(path)), backbone, found.folder, target)
    print(f"{target}: the policy after {found.step} updates ({found.folder})")


def _backbone_and_adapter(run: Path) -> tuple[Path, Path]:
    adapter = run / "stages" / "adapter" / "adapter"
    if not adapter.is_dir():
        raise ConfigError(
            f"{run}: has no stages/adapter/adapter to merge; go on with it: boxmed train --resume {run.name}"
        )
    trained = (run / "stages" / stage / "model" for stage in ("svr", "mcl"))
    return next(model for model in trained if model.is_dir()), adapter


def _checkpoint(store: CheckpointStore, which: str) -> Checkpoint:
    there = sorted(folder.name.removeprefix(PREFIX).lstrip("0") for folder in store.folder.glob(f"{PREFIX}*"))
    found = None
    if which == "best":
        found = store.best()
    elif which == "last":
        found = store.latest()
    elif which in there:
        found = read_checkpoint(store.folder / f"{PREFIX}{int(which):08d}")
    if found is None:
        raise ConfigError(
            f"--checkpoint {which}: there is none in {store.folder}; "
            f"use best, last or one of: {', '.join(there) or 'none, SVR has left no checkpoint'}"
        )
    return found
