"""What a service lives through: ten thousand requests, a shutdown in their midst, more load than one engine takes."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import psutil
import pytest
from safetensors.torch import load_file, save_file

from tests.integration.serving import Server, png, serving
from tests.serve import hostile
from tests.serve.tiny_run import REPORT

pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
REQUESTS = 10_000
GROWTH_MB = 60


@pytest.fixture
def run(tiny_run: Path) -> Path:
    return tiny_run


def open_to_all(run: Path, *options: str) -> AbstractContextManager[Server]:
    return serving(run, "--no-auth", *options)


def replicas(server: Server) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.process.pid).children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::ServeReplica:"):
            found.append(child)
    return found


def test_ten_thousand_requests_leave_no_memory_behind_and_no_fault(run: Path) -> None:
    sent = [
        *({"files": {"image": ("x", data)}} for data in (
            b"", b"x" * 1000, png()[:-50], hostile.bomb(60_000, 60_000), hostile.animated(), hostile.rotated(),
        )),
        {"files": {"picture": png()}}, {"json": {"image": "http://127.0.0.1/x.png"}}, {"json": {}}, {"content": b"{"},
    ]  # fmt: skip
    statuses: dict[int, int] = {}
    with open_to_all(run) as server, httpx.Client(base_url=server.url, timeout=120) as client:

        def ask(number: int) -> int:
            request = {"files": {"image": png(200 + number % 64)}} if number % 20 == 0 else sent[number % len(sent)]
            return client.post("/v1/reports", **request).status_code  # type: ignore[arg-type]

        def many(first: int, count: int) -> None:
            with ThreadPoolExecutor(8) as pool:
                for status in pool.map(ask, range(first, first + count)):
                    statuses[status] = statuses.get(status, 0) + 1

        many(0, REQUESTS // 4)  # caches fill
        (replica,) = replicas(server)
        before = replica.memory_info().rss
        many(REQUESTS // 4, REQUESTS - REQUESTS // 4)
        grown = (replica.memory_info().rss - before) / 2**20
    print(f"{statuses}, {grown:.0f} MB more after the last {REQUESTS - REQUESTS // 4}")
    assert sum(statuses.values()) == REQUESTS
    assert set(statuses) <= {200, 413, 415, 422}
    assert statuses[200] > REQUESTS // 25
    assert grown < GROWTH_MB


def test_a_shutdown_answers_what_was_accepted(run: Path) -> None:
    with open_to_all(run) as server:
        with ThreadPoolExecutor(24) as pool:
            waiting = [
                pool.submit(httpx.post, f"{server.url}/v1/reports", files={"image": png(300 + number)}, timeout=120)
                for number in range(24)
            ]
            while not any(request.done() for request in waiting):  # the first is answered, the rest is under way
                time.sleep(0.005)
            server.process.send_signal(signal.SIGTERM)
            answers = [request.result() for request in waiting]
        assert [answer.status_code for answer in answers] == [200] * 24
        assert all(answer.json()["report"] == REPORT for answer in answers)
        assert server.process.wait(60) == 0


def test_engines_come_under_load_and_go_after_it(run: Path) -> None:
    with open_to_all(run, "--replicas", "1:2") as server:
        assert len(replicas(server)) == 1
        stop = time.monotonic() + 150
        sizes: set[int] = set()
        numbers = itertools.count()

        def ask() -> None:
            while time.monotonic() < stop and 2 not in sizes:
                answer = httpx.post(
                    f"{server.url}/v1/reports", files={"image": png(200 + next(numbers) % 99)}, timeout=120
                )
                assert answer.status_code in (200, 503), answer.text
                if answer.status_code == 503:
                    assert int(answer.headers["retry-after"]) > 0
                    time.sleep(1)

        with ThreadPoolExecutor(24) as pool:
            asking = [pool.submit(ask) for _ in range(24)]
            while not all(one.done() for one in asking):
                sizes.add(len(replicas(server)))
                time.sleep(0.5)
            for one in asking:
                one.result()
        assert 2 in sizes
        health = json.loads(httpx.get(f"{server.url}/readyz", timeout=30).text)
        assert health["status"] == "ready"


def test_a_new_backbone_rolls_in_without_a_failed_request(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(run, copy)
    with open_to_all(copy) as server:
        before = _backbone(server)
        weights = copy / "stages/svr/model/model.safetensors"
        tensors = load_file(weights)
        beside = weights.with_suffix(".new")
        save_file(tensors, beside, {"format": "pt", "version": "next"})  # the same weights in another file
        beside.replace(weights)
        server.process.send_signal(signal.SIGHUP)
        end, seen = time.monotonic() + 180, set()
        with ThreadPoolExecutor(4) as pool:
            while time.monotonic() < end and len(seen) < 2:
                asked = [pool.submit(_report, server) for _ in range(4)]
                answers = [one.result() for one in asked]
                assert [answer.status_code for answer in answers] == [200] * 4, [answer.text for answer in answers]
                assert all(answer.json()["report"] == REPORT for answer in answers)
                seen |= {answer.json()["model"]["backbone_version"] for answer in answers}
        assert before in seen or len(seen) == 1
        assert seen - {before}


def _report(server: Server) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/reports", files={"image": png()}, timeout=180)


def _backbone(server: Server) -> str:
    return str(httpx.get(f"{server.url}/readyz", timeout=30).json()["model"]["backbone_version"])
