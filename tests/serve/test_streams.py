"""Batches and streams: what they may hold of the service, and what each of their parts is called."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

import serve.images
from serve.api import build_app
from serve.desk import Settings
from serve.security import Limits
from tests.integration.test_page import Answering
from tests.serve import hostile
from tests.serve.test_api import PNG, Slow, multipart, problem

LIMITS = Limits(waiting=8, batches=2, batch_read_s=0.3, answer_s=0.3)


class Counting(Answering):
    """Counts how many are answered at a time."""

    now = most = 0

    async def report(self, *given: Any, **named: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.01)
            return await super().report(*given, **named)
        finally:
            self.now -= 1


def lines(response: Any) -> list[Any]:
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def images(count: int) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", ("x.png", hostile.encoded(hostile.grey(30 + number)))) for number in range(count)]


def test_each_report_of_a_batch_has_an_id_of_its_own() -> None:
    """Verdicts name a report by its id: with one for all, those on two images would replace each other."""
    with TestClient(build_app(Answering(), LIMITS)) as client:
        told = lines(client.post("/v1/batches", files=images(5)))
    assert len({line["report"]["id"] for line in told}) == 5


def test_batches_leave_seats_for_others() -> None:
    service = Counting()

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(build_app(service, LIMITS))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            batches = [asyncio.create_task(client.post("/v1/batches", files=images(12))) for _ in range(2)]
            await asyncio.sleep(0.05)
            alone = await client.post("/v1/reports", **multipart(PNG))
            return [alone, *await asyncio.gather(*batches)]

    alone, *batches = asyncio.run(ask())
    assert alone.status_code == 200
    assert [len(lines(batch)) for batch in batches] == [12, 12]
    assert service.most <= LIMITS.waiting // 2 + 1


def test_more_batches_than_may_be_are_sent_away_before_their_bodies_are_read() -> None:
    read = 0

    async def body() -> Any:
        nonlocal read
        yield b"--x"
        read += 1
        await asyncio.sleep(60)

    async def flood() -> list[httpx.Response]:
        transport = httpx.ASGITransport(build_app(Answering(), LIMITS))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            kind = {"content-type": "multipart/form-data; boundary=x"}
            return await asyncio.gather(*(client.post("/v1/batches", content=body(), headers=kind) for _ in range(5)))

    answers = asyncio.run(flood())
    assert sorted(problem(answer).status for answer in answers) == [408, 408, 503, 503, 503]
    assert read == LIMITS.batches


@pytest.mark.parametrize("path", ["/v1/reports", "/v1/chat/completions"])
def test_a_stream_keeps_its_seat_until_it_ends(path: str) -> None:
    service = Slow()
    limits = Limits(waiting=2, answer_s=0.3)

    def request() -> dict[str, Any]:
        if path == "/v1/reports":
            return {"files": {"image": ("x", PNG)}, "data": {"stream": "true"}}
        return {"json": {"model": "a", "messages": [{"role": "user", "content": "x"}], "stream": True}}

    async def flood(client: httpx.AsyncClient) -> list[int]:
        answers = await asyncio.gather(*(client.post(path, **request()) for _ in range(5)))
        return [answer.status_code for answer in answers]

    async def twice() -> list[list[int]]:
        transport = httpx.ASGITransport(build_app(service, limits))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return [await flood(client), await flood(client)]

    first, second = asyncio.run(twice())
    assert sorted(first) == sorted(second) == [200, 200, 503, 503, 503]
    assert service.asked == 4


def test_no_more_images_are_decoded_at_a_time_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = most = 0
    prepare = serve.images.prepare

    def slowly(*given: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        time.sleep(0.02)
        now -= 1
        return prepare(*given)

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(build_app(Answering(), Limits(decoders=2)))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answers = await asyncio.gather(*(client.post("/v1/reports", **multipart(PNG)) for _ in range(8)))
            return [answer.status_code for answer in answers]

    monkeypatch.setattr(serve.images, "prepare", slowly)
    assert asyncio.run(ask()) == [200] * 8
    assert most == 2


def test_one_image_that_comes_many_times_at_once_is_kept_once_and_answered_each_time(tmp_path: Path) -> None:
    async def ask() -> list[int]:
        app = build_app(Answering(), Limits(), Settings(feedback=tmp_path, feedback_images=True))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            answers = await asyncio.gather(*(client.post("/v1/reports", **multipart(PNG)) for _ in range(24)))
            return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [200] * 24
    assert [path.suffix for path in (tmp_path / "images").iterdir()] == [".png"]


def test_an_image_that_cannot_be_kept_costs_no_report(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("not a folder")
    with TestClient(build_app(Answering(), LIMITS, Settings(feedback=tmp_path, feedback_images=True))) as client:
        assert client.post("/v1/reports", **multipart(PNG)).status_code == 200
