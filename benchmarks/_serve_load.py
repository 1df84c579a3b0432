"""Clients that ask again as soon as they are answered; run by serve.py in a process of its own.

    python benchmarks/_serve_load.py ADDRESS BODIES CLIENTS SECONDS

Prints one JSON object: requests a second, percentiles of their times, errors. Answers that come after the time count
for neither.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import httpx

_WARM_S = 1.0


async def load(address: str, bodies: list[str], clients: int, seconds: float) -> dict[str, float]:
    """Ask for ``seconds`` after a warm-up."""
    order = itertools.cycle(bodies)
    times: list[float] = []
    errors = 0
    begun = time.perf_counter() + min(_WARM_S, seconds)
    ended = begun + seconds

    async def one(client: httpx.AsyncClient) -> None:
        nonlocal errors
        while (asked := time.perf_counter()) < ended:
            answer = await client.post(
                "/v1/chat/completions", content=next(order), headers={"content-type": "application/json"}
            )
            now = time.perf_counter()
            if begun <= now < ended:
                if answer.status_code == 200:
                    times.append(now - asked)
                else:
                    errors += 1

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
    cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    return {
        "requests_per_s": len(times) / seconds,
        "p50_ms": 1000 * cuts[49],
        "p95_ms": 1000 * cuts[94],
        "p99_ms": 1000 * cuts[98],
        "errors": errors,
    }


if __name__ == "__main__":
    place, file, count, duration = sys.argv[1:]
    print(json.dumps(asyncio.run(load(place, Path(file).read_text().splitlines(), int(count), float(duration)))))
