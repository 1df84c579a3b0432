"""Reports, places and batches: ``/v1/reports``, ``/v1/ground``, ``/v1/batches``.

What lives here: from a read request to the answer in the form that was asked for. What does not: reading (reading.py).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from serve import fhir, images
from serve.desk import Desk, HeldStream, pieces, request_id
from serve.feedback import pixels_digest
from serve.grounded import Wanted
from serve.openapi import body_schema, problem_schema
from serve.questions import EngineDeadError, Sampling
from serve.reading import read_image, read_images
from serve.schemas import (
    BatchLine,
    GroundOptions,
    GroundRequest,
    ImageInfo,
    Located,
    Report,
    ReportOptions,
    ReportRequest,
    Timings,
)
from serve.security import RequestRefusedError, problem_of

log = logging.getLogger("boxmed.serve")

REFUSALS: dict[int | str, dict[str, Any]] = {
    401: problem_schema("No key, or one that is not known."),
    404: problem_schema("No adapter of that name."),
    408: problem_schema("The body did not arrive in time."),
    413: problem_schema("Too large a body, or too many pixels."),
    415: problem_schema("Neither multipart nor JSON, or not a kind of image that is read."),
    422: problem_schema("No image, an unreadable one, or an option that is not one."),
    429: problem_schema("This key has asked too often."),
    503: problem_schema("Too many requests are waiting."),
}
_BATCH_AT_ONCE = 8


def add_report_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes to ``app``."""

    @app.post(
        "/v1/reports",
        response_model=Report,
        openapi_extra={"requestBody": body_schema(ReportOptions, ReportRequest)},
        responses=REFUSALS,
        tags=["reports"],
    )
    async def reports(request: Request) -> Any:
        """Write a report about one radiograph; every sentence with its boxes and reasoning."""
        async with AsyncExitStack() as held:
            await held.enter_async_context(desk.seat())
            begun = time.perf_counter()
            sent = await desk.arrived(read_image(request, ReportOptions, ReportRequest))
            options: ReportOptions = sent.options
            if options.format == "dicom-sr" and not images.is_dicom(sent.image):
                raise RequestRefusedError(422, "format dicom-sr needs a DICOM image: the SR refers to it")
            job = _Job(desk, request_id(request), options, begun)
            radiograph = await desk.radiograph(sent.image)
            if options.stream:
                return HeldStream(_streamed(job, radiograph), held.pop_all(), "text/event-stream")
            report = await desk.answered(job.write(radiograph))
            return await _in_form(report, options, sent.image)

    @app.post(
        "/v1/ground",
        response_model=Located,
        openapi_extra={"requestBody": body_schema(GroundOptions, GroundRequest)},
        responses=REFUSALS,
        tags=["reports"],
    )
    async def ground(request: Request) -> Located:
        """Locate one phrase in one radiograph, by the backbone alone."""
        async with desk.seat():
            begun = time.perf_counter()
            sent = await desk.arrived(read_image(request, GroundOptions, GroundRequest))
            radiograph = await desk.radiograph(sent.image)
            decoded = time.perf_counter()
            located = await desk.answered(desk.service.locate(radiograph, sent.options.phrase))
            ended = time.perf_counter()
            desk.service.observer.phase("ground", ended - decoded)
            return Located(
                id=request_id(request),
                located=located,
                image=_image_info(radiograph),
                model=desk.service.model(desk.adapter(None)),
                timings=Timings(
                    decode_ms=_ms(decoded - begun),
                    report_ms=0,
                    ground_ms=_ms(ended - decoded),
                    total_ms=_ms(ended - begun),
                ),
            )

    @app.post(
        "/v1/batches",
        openapi_extra={"requestBody": body_schema(ReportOptions, None, many=True)},
        responses=REFUSALS
        | {
            200: {
                "description": "A line for each image, as it is ready.",
                "content": {"application/x-ndjson": {"schema": BatchLine.model_json_schema()}},
            }
        },
        tags=["reports"],
    )
    async def batches(request: Request) -> HeldStream:
        """Write a report about each of many radiographs: a line of JSON for each, as it is ready."""
        async with AsyncExitStack() as held:
            await held.enter_async_context(desk.batch())
            reading = read_images(request, ReportOptions, desk.limits.batch_images)
            sent, options = await desk.arrived(reading, desk.limits.batch_read_s)
            if options.stream or options.format != "json":
                raise RequestRefusedError(422, "batches are answered line by line in JSON; leave stream and format out")
            desk.adapter(options.adapter)
            lines = _batch(desk, request_id(request), sent, options)
            return HeldStream(lines, held.pop_all(), "application/x-ndjson")


def add_preview_route(app: FastAPI, desk: Desk) -> None:
    """What the page needs to window a DICOM image."""

    @app.post("/v1/preview", include_in_schema=False)
    async def show(request: Request) -> Response:
        from serve.preview import preview

        async with desk.seat():
            sent = await desk.arrived(read_image(request, _NoOptions, _PreviewRequest))
            seen = await desk.decoded(preview, sent.image, desk.limits)
        headers = {"X-Window-Center": f"{seen.centre:.1f}", "X-Window-Width": f"{seen.width:.1f}"}
        return Response(seen.png, media_type="image/png", headers=headers)


class _NoOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _PreviewRequest(_NoOptions):
    image: str


class _Job:
    """One report: what is wanted, and how it is told."""

    def __init__(self, desk: Desk, name: str, options: ReportOptions, begun: float) -> None:
        self._desk, self.id, self._options, self._begun = desk, name, options, begun
        self.limits = desk.limits
        self.adapter = desk.adapter(options.adapter)
        self._wanted = Wanted(
            self.adapter,
            options.grounding,
            options.max_tokens and min(options.max_tokens, desk.limits.tokens),
            Sampling(options.temperature, options.top_p, options.seed),
        )

    async def write(self, radiograph: images.Radiograph, told: Callable[[str], None] | None = None) -> Report:
        """Write it."""
        desk, decoded = self._desk, time.perf_counter()
        written = await desk.service.report(radiograph, self._wanted, told)
        total_s = time.perf_counter() - self._begun
        desk.service.observer.phase("report", written.report_ms / 1000)
        desk.service.observer.phase("ground", written.ground_ms / 1000)
        info = _image_info(radiograph)
        if desk.feedback is not None and desk.feedback.images:
            try:
                await asyncio.to_thread(desk.feedback.keep, radiograph.seen, info.digest)
            except OSError as error:  # the report is there all the same
                log.error("image-not-kept id=%s why=%r", self.id, error.strerror)
        log.info("report id=%s sentences=%d total_ms=%.0f", self.id, len(written.sentences), 1000 * total_s)
        sentences = written.sentences
        if not self._options.reasoning:
            sentences = [sentence.model_copy(update={"reasoning": None}) for sentence in sentences]
        return Report(
            id=self.id,
            report=written.report,
            truncated=written.truncated,
            sentences=sentences,
            image=info,
            model=desk.service.model(self.adapter),
            timings=Timings(
                decode_ms=_ms(decoded - self._begun),
                report_ms=round(written.report_ms, 2),
                ground_ms=round(written.ground_ms, 2),
                total_ms=_ms(total_s),
            ),
        )


async def _in_form(report: Report, options: ReportOptions, data: bytes) -> Report | Response:
    if options.format == "fhir":
        return JSONResponse(fhir.diagnostic_report(report), media_type=fhir.MEDIA)
    if options.format == "dicom-sr":
        from serve import dicom_sr  # highdicom takes a second to import, and few ask for it

        return Response(await asyncio.to_thread(dicom_sr.structured_report, report, data), media_type=dicom_sr.MEDIA)
    return report


async def _streamed(job: _Job, radiograph: images.Radiograph) -> AsyncIterator[str]:
    """Server-sent events: ``text`` for each piece, ``report`` with the whole, ``problem`` instead of it."""
    try:
        async with asyncio.timeout(job.limits.answer_s):
            async for piece in pieces(lambda told: job.write(radiograph, told)):
                if isinstance(piece, str):
                    yield _event("text", json.dumps(piece))
                else:
                    yield _event("report", piece[0].model_dump_json())
    except (TimeoutError, EngineDeadError) as error:
        detail = "the engine has stopped" if isinstance(error, EngineDeadError) else "it took too long"
        yield _event("problem", problem_of(503, f"{detail}; come back later", job.id).model_dump_json())


async def _batch(desk: Desk, batch: str, sent: list[bytes], options: ReportOptions) -> AsyncIterator[str]:
    """Lines as they are ready; a few at once, each in a seat of its own, so that others get theirs between."""
    turns = asyncio.Semaphore(max(1, min(_BATCH_AT_ONCE, desk.limits.waiting // (2 * desk.limits.batches))))

    async def one(index: int) -> BatchLine:
        # Verdicts name a report by its id: each image has one of its own, the same whenever it is derived.
        name = str(uuid.uuid5(uuid.UUID(batch), str(index)))
        async with turns:
            try:
                async with desk.patient_seat():
                    radiograph = await desk.radiograph(sent[index])
                    sent[index] = b""
                    job = _Job(desk, name, options, time.perf_counter())
                    return BatchLine(index=index, report=await desk.answered(job.write(radiograph)))
            except RequestRefusedError as error:
                return BatchLine(index=index, problem=problem_of(error.status, error.detail, name))
            except EngineDeadError:
                return BatchLine(index=index, problem=problem_of(503, "the engine has stopped; send it again", name))

    running = [asyncio.ensure_future(one(index)) for index in range(len(sent))]
    try:
        for ready in asyncio.as_completed(running):
            yield (await ready).model_dump_json(exclude_none=True) + "\n"
    finally:
        for task in running:
            task.cancel()


def _image_info(radiograph: images.Radiograph) -> ImageInfo:
    return ImageInfo(width=radiograph.width, height=radiograph.height, digest=pixels_digest(radiograph.seen))


def _event(kind: str, data: str) -> str:
    return f"event: {kind}\ndata: {data}\n\n"


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
