"""`boxmed data build` on many generated studies: studies a second, and memory from the first study to the last.

The source is a manifest of generated radiographs (shifted and re-lit phantoms, so that no two files are the same), each
with boxes, words and a patient. What is measured is the build as the command runs it: reading the manifest, planning,
Ray Data's workers with decoding, scaling, hashing and writing, and the joined Parquet manifest.

    python benchmarks/data_build.py [--quick] [--studies 100000] [--workers 2] [--folder DIR]

``peak_mb`` is of all processes of the build, Ray's own among them, pages shared by some counted once (PSS).
``memory_mb`` is the same by fifths of the way, its median in each: constant memory is a flat row. ``driver_mb`` is the
driver's part of it, which holds names of studies and patients. Making the source is not measured.

The build is broken off when half of it is done and called again, as a killed one would be: ``restart`` has the studies
done when it was broken off, those found done by the second call, and the seconds until that call was at work. All of it
is in ``seconds``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
from _common import ONE_THREAD, print_result, say, versions
from PIL import Image

from boxmed_ray.data.phantom import make_phantom
from boxmed_ray.data.readers import Located
from boxmed_ray.data.readers.manifest import manifest_head, manifest_row, read_manifest
from boxmed_ray.data.shards import Size
from boxmed_ray.data.study import Study
from boxmed_ray.ray_local import quiet_environment
from boxmed_ray.stages.build import Built, build

PATTERNS = 64
_PARTS = 5
_SAMPLE_S = 1.0
MB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of 512 studies; its figures mean nothing")
    parser.add_argument("--studies", type=int, default=100_000, help="generated studies (100000)")
    parser.add_argument("--workers", type=int, default=2, help="workers at once (2)")
    parser.add_argument("--folder", type=Path, help="where source and target go; default: a temporary folder")
    chosen = parser.parse_args()
    quiet_environment()
    os.environ.update(ONE_THREAD)
    count = 512 if chosen.quick else chosen.studies
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        source, target = Path(folder, "source"), Path(folder, "built")
        say(f"making {count} studies …")
        manifest = make_source(count, source)
        say("building …")
        meter = Meter(count)
        with meter:
            with contextlib.suppress(BrokenOffError):
                make(manifest, target, chosen.workers, meter.half)
            meter.again()
            built = make(manifest, target, chosen.workers, meter.progress)
        read = sum(isinstance(item, Located) for item in read_manifest(built.manifest))
        if read != count:
            raise RuntimeError(f"{read} of {count} studies are in the manifest")
        print_result(
            {
                "name": "data_build", "threads": 1, "repeats": 1, "peer": None,
                "studies": count, "workers": chosen.workers, "cores": os.cpu_count(),
                "manifest_mb": round(built.manifest.stat().st_size / MB, 1), **meter.figures(),
                "versions": versions("ray", "pyarrow", "pillow", "numpy"),
            }
        )  # fmt: skip


class BrokenOffError(Exception):
    """The build is ended from within, with nothing said to it before."""


def make(manifest: Path, target: Path, workers: int, on_progress: Callable[[int, int], None]) -> Built:
    """One call of the build."""
    return build(
        read_manifest(manifest), target, {"kind": "manifest"}, Size(scale=0.5), workers=workers, on_progress=on_progress
    )


def make_source(count: int, folder: Path) -> Path:
    """Images and their manifest, written a line at a time."""
    folder.mkdir(parents=True)
    patterns = [make_phantom(number, 0, "train", folder) for number in range(PATTERNS)]
    pixels = [np.asarray(Image.open(study.image)) for study in patterns]
    path = folder / "manifest.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest_head({})) + "\n")
        for number in range(count):
            study = variant(number, patterns[number % PATTERNS], pixels[number % PATTERNS], folder)
            file.write(json.dumps(manifest_row(study, folder.absolute())) + "\n")
    return path


def variant(number: int, pattern: Study, pixels: np.ndarray, folder: Path) -> Study:
    """The pattern with its grey values turned round, its image written."""
    rng = random.Random(number)
    grey = np.clip(pixels * rng.uniform(0.6, 1.0) + rng.uniform(0, 40), 0, 255).astype(np.uint8)
    image = folder / f"{number // 1000:04d}" / f"g{number:07d}.png"
    image.parent.mkdir(exist_ok=True)
    Image.fromarray(grey).save(image, compress_level=1)
    return pattern.model_copy(
        update={
            "id": f"g{number:07d}", "patient_id": f"p{number // 2:07d}", "image": image.absolute(),
            "split": "test" if number // 2 % 5 == 0 else "train",
        }
    )  # fmt: skip


class Meter:
    """Memory of this process and its descendants every second, and how far the build is."""

    def __init__(self, studies: int) -> None:
        self._studies, self._done = studies, 0
        self._began = self._planned = self._ended = self._again = 0.0
        self._restart: dict[str, float] = {}
        self._told = 0
        self._samples: list[tuple[float, float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def progress(self, done: int, _: int) -> None:
        """The first call comes when the plan is made."""
        now = time.perf_counter()
        self._planned = self._planned or now
        if self._again and "studies_found" not in self._restart:
            self._restart |= {"studies_found": done, "plan_seconds": round(now - self._again, 1)}
        self._done = done
        if done * 20 // self._studies > self._told:
            self._told = done * 20 // self._studies
            say(f"{done} studies after {now - self._began:.0f} s")

    def half(self, done: int, of: int) -> None:
        """As ``progress``, and ends the build when half of it is done."""
        self.progress(done, of)
        if done >= of / 2:
            self._restart["studies_done"] = done
            raise BrokenOffError

    def again(self) -> None:
        """The second call begins."""
        self._again = time.perf_counter()

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended = time.perf_counter()
        self._stop.set()
        self._thread.join()

    def figures(self) -> dict[str, object]:
        """Of the whole build."""
        seconds, plan = self._ended - self._began, self._planned - self._began
        return {
            "seconds": round(seconds, 1),
            "plan_seconds": round(plan, 1),
            "studies_per_s": round(self._studies / seconds, 1),
            "restart": self._restart,
            "peak_mb": round(max(whole for _, whole, _ in self._samples)),
            "memory_mb": list(self._by_part(1)),
            "driver_mb": list(self._by_part(2)),
        }

    def _by_part(self, column: int) -> Iterator[int | None]:
        for part in range(_PARTS):
            inside = [s[column] for s in self._samples if part / _PARTS < s[0] <= (part + 1) / _PARTS]
            yield round(statistics.median(inside)) if inside else None

    def _watch(self) -> None:
        driver = psutil.Process()
        while not self._stop.wait(_SAMPLE_S):
            own, whole = driver.memory_full_info().pss, 0
            for process in driver.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    whole += process.memory_full_info().pss
            self._samples.append((self._done / self._studies, (own + whole) / MB, own / MB))


if __name__ == "__main__":
    main()
