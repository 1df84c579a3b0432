"""The ``radgraph`` package of another environment, as the benchmark and the parity test talk to it.

What lives here: the pipe and the clock. What does not: the program at its other end (_radgraph_package.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rewards.radgraph import Annotation, Entity, Relation

PROGRAM = Path(__file__).with_name("_radgraph_package.py")


class Took(NamedTuple):
    """Seconds that passed, and seconds of processor time."""

    seconds: float
    cpu: float

    def __add__(self, other: tuple[float, ...]) -> Took:
        """Both, one after the other."""
        return Took(self.seconds + other[0], self.cpu + other[1])


class Stopwatch:
    """What the body of a ``with`` took, in ``took``."""

    def __enter__(self) -> Stopwatch:
        self._start = Took(time.perf_counter(), time.process_time())
        return self

    def __exit__(self, *_: object) -> None:
        self.took = Took(time.perf_counter() - self._start.seconds, time.process_time() - self._start.cpu)


class Peer:
    """A running ``F1RadGraph``; a context manager, which ends it.

    Args:
        python: interpreter of the environment that holds the package.
        folder: folder of the archive, named after the variant.
        core: what to pin it to; None for anywhere.
    """

    def __init__(self, python: Path, folder: Path, core: int | None = None) -> None:
        command = [str(python), str(PROGRAM), str(folder.parent), folder.name]
        command += [] if core is None else [str(core)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.versions: dict[str, str] = self._answer()["versions"]

    def annotate(self, texts: Sequence[str]) -> tuple[list[Annotation], Took]:
        """Their annotations, and what they took."""
        answer = self._ask({"annotate": texts})
        took = Took(answer["seconds"], answer["cpu"])
        return [_annotation(found) for found in answer["annotations"]], took

    def score(self, references: Sequence[str], hypotheses: Sequence[str]) -> tuple[dict[str, list[float]], Took]:
        """F1 of each pair by level, and what they took."""
        answer = self._ask({"refs": references, "hyps": hypotheses})
        return answer, Took(answer.pop("seconds"), answer.pop("cpu"))

    def _ask(self, task: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(task), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self._process.wait()}; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _annotation(found: dict[str, Any]) -> Annotation:
    return Annotation(
        tuple(
            Entity(
                entity["tokens"],
                entity["label"],
                entity["start_ix"],
                entity["end_ix"],
                tuple(Relation(label, int(target) - 1) for label, target in entity["relations"]),
            )
            for entity in found["entities"].values()
        )
    )
