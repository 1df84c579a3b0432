"""One forward and backward pass of a group: this learner beside replicated rows and TRL's GRPOTrainer.

All sides have the same weights, batch and loss and take turns in one process on one pinned core with one thread; peak
memory is measured in a process each. Ratios above 1 are ours better.

Beside that, the share of a whole update of the demo that is neither generating, scoring nor learning, timed by the step
benchmark's own side of ours with one worker of each kind, all on the one core.

    python benchmarks/learner.py [--quick] [--repeats 10] [--mode auto]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from _common import ONE_THREAD, hand_over, last_core, median, pin_tree, print_result, run_worker, say, versions

PACKAGES = ("torch", "transformers", "trl", "boxmed-rl")
PEER_SETTINGS = {
    "loss_type": "dapo",
    "beta": 0.0,
    "attention": "sdpa",
    "gradient_checkpointing": False,
    "micro_batch": "all responses of the group at once",
    "dtype": "float32",
}
PEERS = ("replicated", "trl")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run under a minute; its figures mean nothing")
    parser.add_argument("--repeats", type=int, default=10, help="timed turns of each side (10)")
    parser.add_argument("--mode", default="auto", help="our mode: auto, packed_row or prefix_cache")
    parser.add_argument("--shape", type=int, action="append", help="index of a shape, 0 to 2; may be repeated (all)")
    parser.add_argument("--core", type=int, default=last_core(), help="the core that everything is pinned to")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        task = json.loads(args.worker)
        hand_over(_peak_memory(task) if "side" in task else _time(task))
        return
    repeats = 2 if args.quick else args.repeats
    task = {"mode": args.mode, "quick": args.quick, "repeats": repeats, "core": args.core}
    print_result(
        {
            "name": "learner",
            "versions": versions(*PACKAGES),
            "threads": int(ONE_THREAD["OMP_NUM_THREADS"]),
            "repeats": repeats,
            "peer": {"name": "trl.GRPOTrainer.compute_loss", "settings": PEER_SETTINGS},
            "quick": args.quick,
            "mode": args.mode,
            "shapes": [_shape(task | {"shape": index}) for index in args.shape or range(3)],
            "demo_step": _demo_step(args.core, args.quick),
        }
    )


def _demo_step(core: int, quick: bool) -> dict[str, Any]:
    """A whole update of the demo recipe: its seconds by phase, and the share that is not generate, score or learn."""
    from _step_cases import QUICK, SHAPES, prepare

    warm, steps = (2, 2) if quick else (4, 20)
    shape = QUICK["demo"] if quick else SHAPES["recipe"]
    with tempfile.TemporaryDirectory() as folder:
        case = prepare(shape, warm + steps, Path(folder), teach_steps=150)
        script = Path(__file__).with_name("step.py")
        run = run_worker(script, {"side": "ours", "case": str(case), "warm": warm, "core": core})
    phases = run["phases_s"]
    worked = phases["generate"] + phases["score"] + phases["learn"]
    share = round(1 - worked / run["step_s"], 4)
    say(f"demo step: {run['step_s']:.3f} s, {share:.1%} neither generating, scoring nor learning")
    return {"step_s": run["step_s"], "phases_s": phases, "other_share": share}


def _shape(task: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        task = task | {"folder": folder}
        result = run_worker(Path(__file__), task)
        say(f"{result['prompt']} + {result['response']} x {result['n']}: {result['seconds']}")
        sides = (task["mode"], *PEERS)
        peaks = {side: run_worker(Path(__file__), task | {"side": side})["peak_mb"] for side in sides}
    own = peaks[task["mode"]]
    return result | {
        "memory_ratio": round(own / peaks["replicated"], 3),
        "memory_ratio_trl": round(own / peaks["trl"], 3),
        "peak_mb": peaks,
    }


def _time(task: dict[str, Any]) -> dict[str, Any]:
    """In a worker: build everything, check that all sides agree, then take turns."""
    import torch
    from _learner_cases import QUICK, SHAPES, build, count_flops, make_batch
    from _learner_sides import build_side

    torch.set_num_threads(1)
    shape, folder = (QUICK if task["quick"] else SHAPES)[task["shape"]], Path(task["folder"])
    model = build(shape, folder)
    batch = make_batch(shape, model, folder)
    names = (task["mode"], *PEERS)
    sides = {name: build_side(name, model, batch) for name in names}
    pin_tree(task["core"])
    losses, gradients = {}, {}
    for name, side in sides.items():  # also the warm-up
        losses[name] = side.step()
        gradients[name] = {key: value.clone() for key, value in side.gradients().items()}
        side.clear()
    flops = {name: count_flops(side.step) for name, side in sides.items()}
    walls: dict[str, list[float]] = {name: [] for name in names}
    busy: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(task["repeats"]):
        for name, side in sides.items():
            side.clear()
            wall, cpu = time.perf_counter(), time.process_time()
            side.step()
            walls[name].append(time.perf_counter() - wall)
            busy[name].append(time.process_time() - cpu)
    own = names[0]

    def ratio(times: dict[str, list[float]], peer: str) -> float:
        return median([b / a for a, b in zip(times[own], times[peer], strict=True)], 3)

    limit = flops["replicated"] / flops[own]
    return {
        "prompt": shape.image_tokens,
        "prompt_tokens": len(batch.group.prompt_ids),
        "response": shape.response,
        "n": shape.n,
        "ratio_replicated": ratio(walls, "replicated"),
        "ratio_trl": ratio(walls, "trl"),
        "cpu_ratio_replicated": ratio(busy, "replicated"),
        "cpu_ratio_trl": ratio(busy, "trl"),
        "grad_rel_error": _difference(gradients[own], gradients["replicated"]),
        "grad_rel_error_trl": _difference(gradients[own], gradients["trl"]),
        "loss": losses,
        "flop_limit_ratio": round(limit, 3),
        "share_of_limit": round(ratio(busy, "replicated") / limit, 3),
        "gflops": {name: round(count / 1e9, 3) for name, count in flops.items()},
        "gflops_per_s": {name: round(flops[name] / 1e9 / median(busy[name], 6), 2) for name in names},
        "seconds": {name: median(walls[name]) for name in names},
        "cpu_seconds": {name: median(busy[name]) for name in names},
    }


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """‖found − expected‖ / ‖expected‖ over all parameters together."""
    if found.keys() != expected.keys():
        raise RuntimeError(f"sides train different parameters: {sorted(found.keys() ^ expected.keys())[:4]}")
    error = sum(float((found[name] - expected[name]).double().square().sum()) for name in expected)
    return float(f"{(error / sum(float(value.double().square().sum()) for value in expected.values())) ** 0.5:.2e}")


def _peak_memory(task: dict[str, Any]) -> dict[str, Any]:
    """In a worker: how far resident memory rises above the loaded model in steps of one side."""
    import psutil
    import torch
    from _learner_cases import QUICK, SHAPES, make_batch
    from _learner_sides import build_side

    torch.set_num_threads(1)
    shape, folder = (QUICK if task["quick"] else SHAPES)[task["shape"]], Path(task["folder"])
    batch = make_batch(shape, folder / "model", folder)
    side = build_side(task["side"], folder / "model", batch)
    process, done, peak = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    side.step()
    done.set()
    watcher.join()
    return {"peak_mb": round((peak - before) / 2**20, 1)}


if __name__ == "__main__":
    main()
