"""What a run leaves behind while it goes on: metrics.jsonl, progress on the terminal, the table at the end.

What lives here: writing, cutting back and reading metrics, the progress bar and the final table. What does not:
computing any figure; curves and the report page (evaluate/).

Names that the progress bar and the curves know: ``loss``, ``reward``, ``iou``, ``kl``, ``length``,
``format`` (well-formed share), ``tokens_per_s``. Any other name may be written too.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from boxmed_ray.evaluate.summary import Summary

FILE = "metrics.jsonl"
_SHOWN = {"loss": "loss {:.3f}", "reward": "reward {:.3f}", "iou": "IoU {:.3f}", "tokens_per_s": "{:.0f} tokens/s"}
_POLL_S = 0.5


class MetricsWriter:
    """Appends one JSON object a line: stage, step, weight_version, time (Unix seconds), then the values.

    ``time`` among the values is that of the step, where the line is written later.

    Every line is flushed, so that a killed run keeps all but the line it was writing. Values that are not
    finite become null, because JSON has no NaN.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    @classmethod
    def resume(cls, path: Path, stage: str, step: int) -> MetricsWriter:
        """Cut off what was written after ``step`` of ``stage`` (that step stays) and go on behind it.

        Lines are in the order of time: the first line of ``stage`` beyond ``step`` and all behind it go,
        and so does a line that was left half-written.
        """
        if path.is_file():
            part = path.with_suffix(".part")
            part.write_text("".join(_lines_until(path, stage, step)), encoding="utf-8")
            os.replace(part, path)
        return cls(path)

    def write(
        self, stage: str, step: int, values: Mapping[str, SupportsFloat], weight_version: int | None = None
    ) -> None:
        """Append one line. Values may be numbers, NumPy scalars or tensors of one element."""
        line: dict[str, Any] = {"stage": stage, "step": step, "weight_version": weight_version, "time": time.time()}
        line |= {name: _number(value) for name, value in values.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file, in order; a last line that was cut short is left out."""
    return [json.loads(line) for line in _whole_lines(path)]


class Progress:
    """Progress of one stage: a bar on a terminal, a plain line now and then anywhere else.

    Shows stage, step, the values named in ``_SHOWN`` and the time left; a resumed stage's pace is measured from where
    it went on.
    """

    def __init__(
        self, stage: str, steps: int, *, start: int = 0, console: Console | None = None, every: int | None = None
    ) -> None:
        """``steps`` in all, ``start`` of them done already; off a terminal one line every ``every`` steps."""
        self._stage, self._steps, self._start = stage, steps, start
        self._console = console or Console(stderr=True)
        self._every = every or max(1, steps // 20)
        self._began = time.monotonic()
        self._bar: RichProgress | None = None
        if self._console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description:>10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[values]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(stage, total=steps, completed=start, values="")

    def update(self, step: int, values: Mapping[str, Any]) -> None:
        """Show that ``step`` steps are done, with those values of the last that are in ``_SHOWN``."""
        if self._bar is not None:
            words = "  ".join(_words(values))
            self._bar.update(self._task, completed=step, values=words)
        elif step == self._start + 1 or step % self._every == 0 or step == self._steps:
            words = "  ".join([*_words(values), *self._time_left(step)])
            self._console.print(f"{self._stage} {step}/{self._steps}  {words}", highlight=False, markup=False)

    def _time_left(self, step: int) -> list[str]:
        done = step - self._start
        if done <= 0 or step >= self._steps:
            return []
        seconds = round((time.monotonic() - self._began) / done * (self._steps - step))
        return [f"{seconds // 60}:{seconds % 60:02d} left"]

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def follow_metrics(path: Path, stage: str, progress: Progress) -> Iterator[None]:
    """While inside, show on ``progress`` what another process appends to ``path`` about ``stage``.

    For stages whose steps run in worker processes, which have no terminal of their own.
    """
    done = threading.Event()
    offset = path.stat().st_size if path.is_file() else 0

    def pump() -> None:
        nonlocal offset
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        offset += len(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            if record["stage"] == stage:
                progress.update(record["step"], record)

    def watch() -> None:
        while not done.wait(_POLL_S):
            pump()

    thread = threading.Thread(target=watch, name="follow-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        pump()


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """The short table a run ends with."""
    table = Table(title="Grounding on held-out images", title_justify="left")
    for heading in ("", "mean IoU greedy", "mean IoU sampled", "share ≥ .5", "well-formed"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in summary.grounding:
        if row is not None:
            figures = (row.mean_iou, row.sampled_mean_iou, row.share_50, row.format_rate)
            table.add_row(name.replace("_", " "), *("-" if v is None else f"{v:.3f}" for v in figures))
    console = console or Console()
    console.print(table)
    facts = [] if summary.wilcoxon_p is None else [f"SVR above MCL: p = {summary.wilcoxon_p:.2g}"]
    if summary.report is not None:
        r = summary.report
        facts.append(f"reports: BLEU-4 {r.bleu_4:.3f}, ROUGE-L {r.rouge_l:.3f}, disease F1 {r.disease_f1:.3f}")
    if summary.backbone_unchanged is not None:
        facts.append(f"backbone {'unchanged' if summary.backbone_unchanged else 'CHANGED'} by the adapter")
    if summary.data_wait:
        shares = ", ".join(f"{stage} {share:.1%}" for stage, share in summary.data_wait.items())
        facts.append(f"waiting for data: {shares}")
    console.print("; ".join([*facts, f"{sum(summary.wall_seconds.values()) / 60:.1f} min"]), highlight=False)


def _number(value: SupportsFloat) -> int | float | None:
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _words(values: Mapping[str, Any]) -> list[str]:
    return [form.format(float(values[name])) for name, form in _SHOWN.items() if values.get(name) is not None]


def _whole_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield line


def _lines_until(path: Path, stage: str, step: int) -> Iterator[str]:
    for line in _whole_lines(path):
        record = json.loads(line)
        if record["stage"] == stage and record["step"] > step:
            return
        yield line
