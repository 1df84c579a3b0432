"""The supervised stages, MCL and the LoRA adapter, under Ray Train with DeepSpeed inside the loop.

What lives here: starting the workers, following their progress, stopping them so that they leave a
checkpoint. What does not: the training loop (train_loop.py).

A Ctrl-C reaches the driver only. It puts a stop file into the stage's folder, which rank 0 looks for
at every step; all ranks then checkpoint together and end.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from boxmed_ray.checkpoint import CheckpointError, CheckpointStore
from boxmed_ray.config import RunConfig
from boxmed_ray.data.examples import Example
from boxmed_ray.stages.train_loop import CHECKPOINTS, DIVERGED, PROGRESS, RESULT, STOP, Job, Kind, Row, train_loop
from boxmed_ray.stages.watch import DivergedError
from boxmed_ray.tracking import read_metrics
from boxmed_ray.whole_file import write_whole

log = logging.getLogger(__name__)

_CPUS_PER_THREAD = 0.5
"""Ray's books only: two workers fit beside the other actors of a run on a machine of two cores."""
_POLL_S = 0.1
_RAY = "ray"
"""Below the stage's folder, Ray Train's own bookkeeping; removed when the stage has ended."""
_STOP_TIMEOUT_S = 120.0


class StageError(RuntimeError):
    """A worker of a stage failed; the message ends with the worker's own traceback."""


def train_supervised(
    kind: Kind,
    config: RunConfig,
    model_folder: Path,
    examples: Sequence[Example],
    out_folder: Path,
    on_progress: Callable[[dict[str, Any]], None],
    resume: bool,
    image_cache: Path | None = None,
) -> dict[str, Any]:
    """Run a supervised stage to its end; Ray must be initialised.

    Args:
        kind: "mcl" trains what ``config.mcl.train`` says; "adapter" LoRA on a frozen backbone, or for comparison
            what ``config.adapter`` says instead.
        config: of the run; ``config.mcl`` or ``config.adapter`` is the stage's.
        model_folder: what the stage starts from.
        examples: the stage's data; each epoch goes through it in an order of its own.
        out_folder: gets ``model`` (loads in transformers and vLLM) or ``adapter`` (PEFT format).
        on_progress: called in this thread once a step with step, steps, time, loss, lr, grad_norm, skipped,
            tokens, seconds, tokens_per_s, examples and data_s (of the seconds those in which rank 0 waited for its
            batch); on a resume first with the steps before it, whose listener
            may have been killed before it heard of the last of them.
        resume: go on from the newest whole checkpoint; without it the stage starts over.
        image_cache: folder of resized images (data/images.py), or None.

    Returns:
        ``steps``, and where the backbone is frozen ``backbone_before`` and ``backbone_after``, SHA-256 of the
        frozen parameters.

    Raises:
        StageError: a worker failed.
        DivergedError: ``max_bad_steps`` in a row had a loss or gradient that is not finite.
        CheckpointError: no checkpoint to resume from is whole, or one cannot be written.
        KeyboardInterrupt: interrupted; a checkpoint of the last step done is on disk.
    """
    if not examples:
        raise ValueError(f"stage {kind}: there are no examples to train on")
    out_folder = out_folder.resolve()
    rows = [Row(str(e.study.image.resolve()), e.task.value, e.phrase, e.response) for e in examples]
    name = Job(kind, config, model_folder, out_folder, rows).writes
    if resume and (out_folder / name).is_dir():
        _Tail(out_folder / PROGRESS, on_progress).tell()
        return _result(out_folder)
    if not resume:
        for old in (name, CHECKPOINTS):
            shutil.rmtree(out_folder / old, ignore_errors=True)
        for old in (PROGRESS, RESULT):
            (out_folder / old).unlink(missing_ok=True)
    out_folder.mkdir(parents=True, exist_ok=True)
    for old in (STOP, DIVERGED):
        (out_folder / old).unlink(missing_ok=True)
    # Chosen and checked here, once: what the driver logs, the user sees.
    found = CheckpointStore(out_folder / CHECKPOINTS).latest()
    _cut_progress(out_folder / PROGRESS, found.step if found else 0)
    fit = _Fit(Job(kind, config, model_folder.resolve(), out_folder, rows, found, image_cache))
    _follow(fit, out_folder, on_progress)
    shutil.rmtree(out_folder / _RAY, ignore_errors=True)
    if (out_folder / DIVERGED).is_file():
        raise DivergedError((out_folder / DIVERGED).read_text())
    if not (out_folder / name).is_dir():
        raise StageError(f"stage {kind} ended without writing {out_folder / name}")
    return _result(out_folder)


def _follow(fit: _Fit, out_folder: Path, on_progress: Callable[[dict[str, Any]], None]) -> None:
    """Report progress until the workers end; on an interrupt wait for their checkpoint."""
    progress = _Tail(out_folder / PROGRESS, on_progress)
    try:
        fit.start()
        while not fit.ended.wait(_POLL_S):
            progress.tell()
    except KeyboardInterrupt:
        print("\nstopping after this step; a checkpoint is being written …", file=sys.stderr, flush=True)
        (out_folder / STOP).touch()
        if not fit.ended.wait(_STOP_TIMEOUT_S):
            log.error("the workers did not stop within %.0f s; the last periodic checkpoint stands", _STOP_TIMEOUT_S)
        elif fit.error is not None:
            log.error("the workers failed while stopping:\n%s", _worker_traceback(fit.error))
        (out_folder / STOP).unlink(missing_ok=True)
        progress.tell()
        raise
    progress.tell()
    if fit.error is not None:
        raise _own_error(fit.job.kind, fit.error) from fit.error


class _Fit(threading.Thread):
    """``TorchTrainer.fit`` beside the driver's own thread, which stays free for progress and signals.

    Off the main thread Ray Train leaves SIGINT alone; on it, a Ctrl-C would abort the workers at once.

    Wait for ``ended``, never with ``join``: a signal that interrupts ``join`` makes Python 3.11 take the thread for
    ended (its cure of bpo-45274 cannot tell its own lock from the thread's).
    """

    def __init__(self, job: Job) -> None:
        super().__init__(name=f"fit-{job.kind}", daemon=True)
        self.job = job
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            _trainer(self.job).fit()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


def _trainer(job: Job) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(TorchTrainer):
        """Without two helpers that Ray Train starts in processes of their own, seconds of a core each.

        One hands out shards of Ray Datasets, of which there are none. The other asks the dashboard every
        second whether the controller lives, fails where there is no dashboard, and would only free a
        placement group that ends with the job anyway.
        """

        def _create_default_callbacks(self) -> list[Any]:
            idle = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, idle)]

    resources = job.config.resources
    gpus = resources.gpus_per_learner
    demand: dict[str, float] = {"CPU": _CPUS_PER_THREAD * resources.threads}
    if gpus:
        demand["GPU"] = gpus
    return Trainer(
        train_loop,
        train_loop_config=job,
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.train_workers, use_gpu=gpus > 0, resources_per_worker=demand
        ),
        run_config=ray.train.RunConfig(
            name=f"{job.config.name}-{job.kind}-{int(time.time())}", storage_path=str(job.out_folder / _RAY)
        ),
    )


def _cut_progress(path: Path, step: int) -> None:
    """Drop the lines of steps beyond ``step``, which are done again, and one that was left half-written."""
    if path.is_file():
        write_whole(path, "".join(json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step))


class _Tail:
    """Tells ``listener`` the lines of a JSON Lines file: those that are there, then those that are appended."""

    def __init__(self, path: Path, listener: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._listener = path, listener
        self._offset = 0

    def tell(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._listener(json.loads(line))


def _result(out_folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out_folder / RESULT).read_text())
    return result


def _own_error(kind: Kind, error: BaseException) -> Exception:
    """A checkpoint that cannot be written is told in its own words, anything else with the worker's traceback."""
    for failure in (getattr(error, "worker_failures", None) or {}).values():
        own = getattr(failure, "_base_exc", failure)
        if isinstance(own, CheckpointError):
            return CheckpointError(f"stage {kind}: {own}")
    return StageError(f"stage {kind} failed in a worker:\n{_worker_traceback(error)}")


def _worker_traceback(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None) or {}
    return "\n".join(f"worker {rank}: {failure}" for rank, failure in sorted(failures.items())) or str(error)
