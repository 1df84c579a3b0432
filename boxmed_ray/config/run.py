"""A whole run: its parts, its name and its folder, and where its numbers go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from boxmed_ray.config.base import Part
from boxmed_ray.config.data import DataConfig
from boxmed_ray.config.evaluate import EvaluateConfig, ScorersConfig
from boxmed_ray.config.model import ModelConfig
from boxmed_ray.config.reinforce import SVRConfig, TaskName
from boxmed_ray.config.resources import ResourcesConfig
from boxmed_ray.config.supervised import AdapterConfig, MCLConfig


class TrackingConfig(Part):
    """Where numbers go besides metrics.jsonl (docs/operating.md)."""

    to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        ("tensorboard",), description="By name; services read their address and key from the environment."
    )
    experiment: str = Field("boxmed", min_length=1, description="MLflow's experiment, Weights & Biases' project.")
    prometheus: bool = Field(True, description="Also as Ray metrics ray_boxmed_…, which Prometheus collects.")


def is_uri(runs_dir: str) -> bool:
    """Whether a place is named by a URI, as against the path of a folder."""
    return "://" in runs_dir


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


class RunConfig(Part):
    """A whole run: stages in order, on one data set, from one seed."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Folder below runs_dir.")
    runs_dir: Annotated[str, BeforeValidator(_as_text)] = Field(
        "runs", description="Where run folders are written: a folder, or a URI of pyarrow.fs (docs/operating.md)."
    )
    work_dir: Path = Field(
        Path("runs"), description="Local folder below which a run is worked on whose runs_dir is a URI."
    )
    seed: int = Field(0, ge=0, description="Seeds data, initial weights, order and sampling.")
    skip: tuple[Literal["mcl", "svr"], ...] = Field(
        (), description="Stages that are left out, as an ablation does (docs/evaluation.md)."
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    mcl: MCLConfig = MCLConfig()
    svr: SVRConfig = SVRConfig()
    adapter: AdapterConfig = AdapterConfig()
    scorers: ScorersConfig = ScorersConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _tiny_was_taught(self) -> RunConfig:
        taught: dict[TaskName, float] = {"report": self.mcl.report_share, "joint": self.mcl.joint_share}
        for task, share in taught.items():
            if self.model.name_or_path == "tiny" and task in self.svr.shares and not share:
                raise ValueError(
                    f"svr.tasks asks for {task}, which a tiny model has never seen: mcl.{task}_share is 0; "
                    f"set mcl.{task}_share=0.5"
                )
        return self

    @model_validator(mode="after")
    def _each_train_worker_has_an_example(self) -> RunConfig:
        workers = self.resources.train_workers
        for name, stage in {"mcl": self.mcl, "adapter": self.adapter}.items():
            if name not in self.skip and stage.batch_size < workers:
                raise ValueError(
                    f"{name}.batch_size {stage.batch_size} leaves some of resources.train_workers {workers} without an "
                    f"example; set resources.train_workers={stage.batch_size}, or a larger batch"
                )
        return self

    @property
    def folder(self) -> Path:
        """The run folder; where ``runs_dir`` is a URI, the local folder that the run is worked on in."""
        if not is_uri(self.runs_dir):
            return Path(self.runs_dir, self.name)
        scheme, _, rest = self.runs_dir.partition("://")
        parts = re.split(r"[^A-Za-z0-9._-]+", rest.partition("?")[0].rpartition("@")[2])
        return Path(self.work_dir, scheme, *(part for part in parts if part.strip(".")), self.name)
