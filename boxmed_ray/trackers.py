"""Where a run's numbers go besides metrics.jsonl: TensorBoard, MLflow, Weights & Biases, and Ray's own metrics.

What lives here: the one interface of all of them, and the thread that reads metrics.jsonl and tells them. What does
not: what is measured (stages/), metrics.jsonl itself (tracking.py).

metrics.jsonl is the record, and everything here is a copy of it: numbers and the configuration leave the run folder,
never images, reports or answers. A tracker that fails is told on stderr and left out; training goes on.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from boxmed_ray.config import ConfigError, RunConfig
from boxmed_ray.tracking import FILE as METRICS
from boxmed_ray.tracking import read_metrics

log = logging.getLogger(__name__)
SENT = "tracked.json"
"""File of the run folder that says what each tracker has been told, and the id of the run there."""
TENSORBOARD = "tensorboard"
_POLL_S = 2.0
_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_OWN = {"stage", "step", "weight_version", "time"}


class Tracker(Protocol):
    """Takes a run's numbers."""

    name: str

    def log(self, stage: str, step: int, values: Mapping[str, float], seconds: float) -> None:
        """One line of metrics.jsonl; ``step`` counts from 1 in each ``stage``, ``seconds`` is Unix time."""
        ...

    def close(self) -> None:
        """Everything has been told."""
        ...


def check_trackers(config: RunConfig) -> None:
    """Refuse a tracker whose package is missing, before anything starts.

    Raises:
        ConfigError: names the tracker and how to install it.
    """
    for name in config.tracking.to:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ConfigError(
                f"tracking.to names {name}, whose package is not installed; uv pip install 'boxmed-rl[tracking]', "
                "or leave it out"
            )


@contextmanager
def tracked(config: RunConfig, folder: Path) -> Iterator[None]:
    """While inside, tell the run's trackers what is appended to its metrics.jsonl.

    Args:
        config: of the run.
        folder: of the run.
    """
    state = _Sent(folder / SENT)
    trackers = [tracker for name in config.tracking.to if (tracker := _start(name, config, folder, state)) is not None]
    if config.tracking.prometheus:
        trackers.append(RayMetrics(config.name))
    follower = _Follower(folder / METRICS, trackers, state)
    thread = threading.Thread(target=follower.run, name="trackers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        follower.done.set()
        thread.join()


def _start(name: str, config: RunConfig, folder: Path, state: _Sent) -> Tracker | None:
    try:
        if name == "tensorboard":
            return TensorBoard(folder / TENSORBOARD)
        tracker = MLflow(config, state.run(name)) if name == "mlflow" else WandB(config, state.run(name), folder)
        state.begin(name, tracker.run)
        return tracker
    except Exception as error:  # whatever a client of a foreign service may raise
        log.error("tracker %s does not start and is left out: %s", name, error)
        return None


class TensorBoard:
    """Event files below the run folder; a scalar ``stage/name`` for each number."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        folder.mkdir(exist_ok=True)
        # Names have seconds, and a resume within one must not write over what is there.
        self._writer = SummaryWriter(str(folder), flush_secs=10, filename_suffix=f".{len(list(folder.iterdir()))}")

    def log(self, stage: str, step: int, values: Mapping[str, float], seconds: float) -> None:
        """See ``Tracker``."""
        for key, value in values.items():
            self._writer.add_scalar(f"{stage}/{key}", value, step, walltime=seconds)

    def close(self) -> None:
        """See ``Tracker``."""
        self._writer.close()


class MLflow:
    """A run of the experiment ``tracking.experiment``; the server is MLFLOW_TRACKING_URI's.

    Args:
        config: sent as parameters.
        run: id to go on with, of a run that is resumed.
    """

    name = "mlflow"

    def __init__(self, config: RunConfig, run: str | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric: Any = Metric
        self._client = MlflowClient()
        if run is None:
            found = self._client.get_experiment_by_name(config.tracking.experiment)
            experiment = found.experiment_id if found else self._client.create_experiment(config.tracking.experiment)
            run = self._client.create_run(experiment, run_name=config.name).info.run_id
            flat = _flat(config.model_dump(mode="json"))
            # MLflow takes 100 parameters at once.
            for part in (flat[start : start + 100] for start in range(0, len(flat), 100)):
                self._client.log_batch(run, params=[Param(key, value[:6000]) for key, value in part])
        self.run = run

    def log(self, stage: str, step: int, values: Mapping[str, float], seconds: float) -> None:
        """See ``Tracker``."""
        milliseconds = int(seconds * 1000)
        metrics = [self._metric(f"{stage}/{key}", value, milliseconds, step) for key, value in values.items()]
        self._client.log_batch(self.run, metrics=metrics)

    def close(self) -> None:
        """See ``Tracker``."""
        self._client.set_terminated(self.run)


class WandB:
    """A run of the project ``tracking.experiment``; WANDB_API_KEY, WANDB_BASE_URL and WANDB_MODE are its own.

    Args:
        config: sent along.
        run: id to go on with, of a run that is resumed.
        folder: of the run, where wandb's own files go unless WANDB_DIR says otherwise.
    """

    name = "wandb"

    def __init__(self, config: RunConfig, run: str | None, folder: Path) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=config.tracking.experiment, name=config.name, id=run, resume="allow",
            dir=os.environ.get("WANDB_DIR", str(folder)),
            config=config.model_dump(mode="json"), settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        self._stages: set[str] = set()
        self.run: str = self._run.id

    def log(self, stage: str, step: int, values: Mapping[str, float], seconds: float) -> None:
        """See ``Tracker``. Each stage has an axis of its own: wandb's steps never go back."""
        axis = f"{stage}/step"
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(axis)
            self._run.define_metric(f"{stage}/*", step_metric=axis)
        self._run.log({axis: step, "time": seconds} | {f"{stage}/{key}": value for key, value in values.items()})

    def close(self) -> None:
        """See ``Tracker``."""
        self._run.finish()


class RayMetrics:
    """Gauges ``ray_boxmed_<name>`` with the labels run and stage, at Ray's own endpoint for Prometheus.

    Told nothing before Ray is there; what was measured before would be of the past anyway.
    """

    name = "prometheus"

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Any] = {}

    def log(self, stage: str, step: int, values: Mapping[str, float], seconds: float) -> None:
        """See ``Tracker``."""
        import ray

        if not ray.is_initialized():
            return
        from ray.util.metrics import Gauge

        for key, value in {**values, "step": step, "time_seconds": seconds}.items():
            if key not in self._gauges:
                self._gauges[key] = Gauge(f"boxmed_{key}", f"{key} of metrics.jsonl", tag_keys=("run", "stage"))
            self._gauges[key].set(value, {"run": self._run, "stage": stage})

    def close(self) -> None:
        """See ``Tracker``."""


class _Sent:
    """What each tracker has been told: the last step of each stage."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}

    def run(self, name: str) -> str | None:
        return self._known.get(name, {}).get("run")

    def begin(self, name: str, run: str) -> None:
        self._known.setdefault(name, {})["run"] = run
        self.save()

    def is_new(self, name: str, stage: str, step: int) -> bool:
        return step > self._known.get(name, {}).get("steps", {}).get(stage, 0)

    def add(self, name: str, stage: str, step: int) -> None:
        self._known.setdefault(name, {}).setdefault("steps", {})[stage] = step

    def save(self) -> None:
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._known, indent=1))
        part.replace(self._path)


class _Follower:
    """Reads metrics.jsonl again and again. A resumed run does steps anew; those that were told are not told twice."""

    def __init__(self, path: Path, trackers: Sequence[Tracker], state: _Sent) -> None:
        self._path, self._trackers, self._state = path, list(trackers), state
        self._seen: tuple[int, int] | None = None
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(_POLL_S):
            self._tell()
        self._tell()
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:
                log.error("tracker %s did not take the end of the run: %s", tracker.name, error)

    def _tell(self) -> None:
        if not self._path.is_file():
            return
        stat = self._path.stat()
        if (stat.st_size, stat.st_ino) == self._seen:
            return
        self._seen = (stat.st_size, stat.st_ino)
        lines = read_metrics(self._path)
        for tracker in list(self._trackers):
            try:
                self._tell_one(tracker, lines)
            except Exception as error:
                log.error("tracker %s failed and is left out from here on: %s", tracker.name, error)
                self._trackers.remove(tracker)
        self._state.save()

    def _tell_one(self, tracker: Tracker, lines: Sequence[dict[str, Any]]) -> None:
        for line in lines:
            stage, step = line["stage"], line["step"]
            if self._state.is_new(tracker.name, stage, step):
                values = {k: float(v) for k, v in line.items() if k not in _OWN and isinstance(v, int | float)}
                tracker.log(stage, step, values, line["time"])
                self._state.add(tracker.name, stage, step)


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested keys joined by dots."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{above}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) and value else [(name, str(value))]
    return found
