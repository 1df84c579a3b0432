"""What all routes share: the service behind them, limits, seats, and pieces of text as they are written.

What lives here: nothing that knows a route. What does not: reading requests (reading.py), answers (routes_*.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from fastapi import Request
from PIL import Image
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve import images
from serve.feedback import FeedbackFile
from serve.grounded import GroundedReport, Wanted
from serve.questions import Completion, Listener, Question
from serve.schemas import ModelInfo, Sentence
from serve.security import RETRY, Limits, RequestRefusedError

Read = TypeVar("Read")
Answer = TypeVar("Answer")
Given = ParamSpec("Given")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a service is reached.

    Attributes:
        keys: file of API keys; None: no request is asked for one.
        feedback: folder of readers' verdicts; None: none are taken.
        feedback_images: keep the pixels that the model saw, so that verdicts can become studies.
        origins: web origins whose pages may ask; none by default.
        loopback: it listens on this machine alone, and answers, without keys, to no other name.
    """

    keys: Path | None = None
    feedback: Path | None = None
    feedback_images: bool = False
    origins: tuple[str, ...] = ()
    loopback: bool = False


class Observer:
    """Told what happens; this one keeps nothing (metrics.py has the one of a replica)."""

    def phase(self, name: str, seconds: float) -> None:
        """A part of a request took that long."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""

    def waiting(self, count: int) -> None:
        """So many requests are under way."""


class Service(Protocol):
    """What the routes need behind them."""

    @property
    def observer(self) -> Observer:
        """Told what happens."""
        ...

    @property
    def adapters(self) -> Sequence[str]:
        """Names of the adapters; the first is the default."""
        ...

    def model(self, adapter: str) -> ModelInfo:
        """What answers under that name."""
        ...

    @property
    def side(self) -> int:
        """Pixels of the square the model sees."""
        ...

    @property
    def answer_tokens(self) -> int:
        """Of a chat's answer where the request names no number."""
        ...

    def check(self) -> None:
        """Raise EngineDeadError when no request can be answered."""
        ...

    async def report(
        self, radiograph: images.Radiograph, wanted: Wanted, told: Callable[[str], None] | None = None
    ) -> GroundedReport:
        """Write and ground a report."""
        ...

    async def locate(self, radiograph: images.Radiograph, phrase: str) -> Sentence:
        """Locate one phrase."""
        ...

    async def ask(self, image: Image.Image | None, question: Question, listener: Listener | None = None) -> Completion:
        """Answer one question."""
        ...


class Desk:
    """The service with its limits, and as many seats as requests may be under way."""

    def __init__(self, service: Service, limits: Limits, settings: Settings) -> None:
        self.service, self.limits, self.settings = service, limits, settings
        folder = settings.feedback
        self.feedback = None if folder is None else FeedbackFile(folder, settings.feedback_images)
        self._seats = asyncio.Semaphore(limits.waiting)
        self._batches = asyncio.Semaphore(limits.batches)
        self._decoders = asyncio.Semaphore(limits.decoders)
        self._taken = 0

    @contextlib.asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        """One of the requests that may be under way.

        Raises:
            RequestRefusedError: 503, there are as many as may be.
        """
        if self._seats.locked():
            raise RequestRefusedError(503, "too many requests are waiting; come back later", RETRY)
        async with self.patient_seat():
            yield

    @contextlib.asynccontextmanager
    async def batch(self) -> AsyncIterator[None]:
        """One of the batches that may be under way; their bodies are large.

        Raises:
            RequestRefusedError: 503, there are as many as may be.
        """
        if self._batches.locked():
            raise RequestRefusedError(503, "other batches are under way; come back later", RETRY)
        async with self._batches:
            yield

    @contextlib.asynccontextmanager
    async def patient_seat(self) -> AsyncIterator[None]:
        """The same for an image of a batch, whose answer has begun: it waits for one."""
        async with self._seats:
            self._taken += 1
            self.service.observer.waiting(self._taken)
            try:
                yield
            finally:
                self._taken -= 1
                self.service.observer.waiting(self._taken)

    async def arrived(self, reading: Awaitable[Read], seconds: float | None = None) -> Read:
        """What ``reading`` a body gives, within ``seconds`` (None: those of one image).

        Raises:
            RequestRefusedError: 408, it does not come.
        """
        seconds = seconds or self.limits.read_s
        try:
            async with asyncio.timeout(seconds):
                return await reading
        except TimeoutError:
            raise RequestRefusedError(408, f"the request body did not arrive within {seconds:g} s") from None

    async def answered(self, answering: Awaitable[Answer]) -> Answer:
        """What ``answering`` gives.

        Raises:
            RequestRefusedError: 503, it takes too long.
        """
        try:
            async with asyncio.timeout(self.limits.answer_s):
                return await answering
        except TimeoutError:
            detail = f"no answer within {self.limits.answer_s:g} s; come back later"
            raise RequestRefusedError(503, detail, RETRY) from None

    async def decoded(self, decoder: Callable[Given, Read], *given: Given.args, **named: Given.kwargs) -> Read:
        """What ``decoder`` makes of an image, away from the event loop; others wait where memory would not hold all."""
        async with self._decoders:
            return await asyncio.to_thread(decoder, *given, **named)

    async def radiograph(self, data: bytes) -> images.Radiograph:
        """The image of a request, decoded away from the event loop."""
        begun = time.perf_counter()
        read = await self.decoded(images.prepare, data, self.service.side, self.limits)
        self.service.observer.phase("decode", time.perf_counter() - begun)
        return read

    def adapter(self, name: str | None) -> str:
        """The adapter that is meant.

        Raises:
            RequestRefusedError: 404, there is none of that name.
        """
        names = self.service.adapters
        if name is None:
            return names[0]
        if name not in names:
            raise RequestRefusedError(404, f"no adapter of that name is served; there are: {', '.join(names)}")
        return name


class HeldStream(StreamingResponse):
    """A streamed answer that keeps what its request holds, a seat for one, until it has ended or its client is gone."""

    def __init__(self, content: AsyncIterator[str], held: contextlib.AsyncExitStack, media_type: str) -> None:
        super().__init__(content, media_type=media_type)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI)."""
        async with self._held:
            await super().__call__(scope, receive, send)


async def pieces(
    run: Callable[[Callable[[str], None]], Awaitable[Answer]],
) -> AsyncIterator[str | tuple[Answer]]:
    """Text as ``run`` tells it, from whatever thread, and at last what it returns, in a tuple.

    When nobody listens any more, ``run`` is cancelled.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def told(text: str) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, text)

    running = asyncio.ensure_future(run(told))
    running.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (text := await queue.get()) is not None:
            yield text
        yield (await running,)
    finally:
        running.cancel()


def request_id(request: Request) -> str:
    """As the guard gave it."""
    return str(request.state.request_id)
