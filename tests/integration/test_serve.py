"""`boxmed serve` as a user runs it: real Ray Serve and vLLM, started once, asked over HTTP for reports."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from boxmed_ray.data.images import resize_square
from boxmed_ray.data.prompts import Task
from boxmed_ray.model.inputs import PromptEncoder, prompt_text
from boxmed_ray.model.policy import load_policy, load_processor, vision_token_ids
from serve.schemas import Report
from tests.integration.serving import Server, command, free_port, png
from tests.serve import hostile
from tests.serve.tiny_run import ANSWERS, REPORT, WITHOUT_ADAPTER, radiograph

pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.timeout(900)]

SENTENCES = list(ANSWERS)


def test_a_report_comes_with_boxes_in_pixels_of_the_sent_image(server: Server) -> None:
    report = server.report(files={"image": png(300, 200)})
    assert report.report == REPORT
    assert [sentence.text for sentence in report.sentences] == SENTENCES
    nodule, pneumothorax, heart = report.sentences
    # [500, 250, 750, 500] thousandths of 300 x 200.
    assert nodule.boxes == [(150.0, 50.0, 225.0, 100.0)]
    assert (nodule.disease, nodule.region, nodule.malformed) == ("Lung Lesion", "left lung", False)
    assert nodule.reasoning == "Lung Lesion -> left lung"
    assert (pneumothorax.boxes, pneumothorax.malformed) == ([], False)
    assert (heart.boxes, heart.malformed, heart.disease) == (None, True, "Cardiomegaly")
    assert (report.image.width, report.image.height) == (300, 200)
    assert report.timings.total_ms >= report.timings.report_ms + report.timings.ground_ms
    assert not report.truncated


def test_every_form_of_request_gives_the_same_answer(server: Server) -> None:
    sent = png()
    pixels = np.asarray(radiograph(300, 200)).astype(np.uint16)
    answers = [
        server.report(files={"image": ("x.png", sent, "image/png")}),
        server.report(files={"image": ("x", sent, "application/octet-stream")}),
        server.report(json={"image": base64.b64encode(sent).decode()}),
        server.report(files={"image": ("x.dcm", hostile.dicom(pixels), "application/dicom")}),
        server.report(files={"image": ("x.jpg", hostile.encoded(radiograph(300, 200), "JPEG", quality=98))}),
    ]
    assert all(answer.sentences == answers[0].sentences for answer in answers)
    assert len({answer.id for answer in answers}) == len(answers)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_line_of_the_announcement_works_as_typed(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(png(600, 400))
    line = f'curl -s -H "Authorization: Bearer $BOXMED_KEY" -F image=@{file} http://127.0.0.1:{server.port}/v1/reports'
    key = os.environ | {"BOXMED_KEY": server.key}
    out = subprocess.run(line, shell=True, capture_output=True, check=True, timeout=120, env=key)
    report = Report.model_validate(json.loads(out.stdout))
    assert report.sentences[0].boxes == [(300.0, 100.0, 450.0, 200.0)]


def test_the_adapter_writes_and_the_backbone_alone_locates_as_in_transformers(server: Server) -> None:
    from peft import PeftModel

    report = server.report(files={"image": png()})
    folder = server.run / "stages/svr/model"
    processor = load_processor(folder)
    model: Any = load_policy(folder)
    image = resize_square(radiograph(300, 200), 56)
    assert _greedy(model, processor, image, Task.REPORT, None) == WITHOUT_ADAPTER
    located = [_greedy(model, processor, image, Task.GROUND, phrase) for phrase in ANSWERS]
    assert located == list(ANSWERS.values())
    assert [sentence.reasoning for sentence in report.sentences] == [
        text.partition("</think>")[0].removeprefix("<think>") for text in located
    ]
    adapted = PeftModel.from_pretrained(model, server.run / "stages/adapter/adapter").eval()
    assert report.report == _greedy(adapted, processor, image, Task.REPORT, None)


@torch.inference_mode()
def _greedy(model: Any, processor: Any, image: Any, task: Task, phrase: str | None) -> str:
    inputs = PromptEncoder(processor).encode("image", image, prompt_text(processor, task, phrase))
    ids = model.generate(
        input_ids=inputs.input_ids[None],
        attention_mask=torch.ones_like(inputs.input_ids)[None],
        mm_token_type_ids=(inputs.input_ids == processor.image_token_id).int()[None],
        pixel_values=inputs.pixel_values,
        image_grid_thw=inputs.image_grid_thw,
        max_new_tokens=64,
        do_sample=False,
        suppress_tokens=vision_token_ids(processor.tokenizer),
    )
    return str(processor.tokenizer.decode(ids[0, len(inputs.input_ids) :], skip_special_tokens=True))


def test_health_names_versions_that_reports_carry(server: Server) -> None:
    health = httpx.get(f"{server.url}/healthz", timeout=30).json()
    report = server.report(files={"image": png()})
    assert health == {"status": "ready", "model": report.model.model_dump()}
    assert report.model.name == "tiny"
    assert len(report.model.backbone_version) == len(report.model.adapter_version) == 16
    assert report.model.adapter_version in report.model.adapter


def test_requests_at_a_time_are_answered_alike_while_health_goes_on(server: Server) -> None:
    sizes = [(300 + 30 * i, 200 + 20 * i) for i in range(12)]
    with ThreadPoolExecutor(len(sizes)) as pool:
        waiting = [pool.submit(server.report, files={"image": png(*size)}) for size in sizes]
        checks = 0
        while not all(request.done() for request in waiting):
            assert httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200
            checks += 1
    assert checks > 0
    for (width, height), request in zip(sizes, waiting, strict=True):
        report = request.result()
        assert (report.image.width, report.image.height) == (width, height)
        assert report.report == REPORT
        assert report.sentences[0].boxes == [(width / 2, height / 4, 3 * width / 4, height / 2)]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({}, 415),
        ({"files": {"image": ("x.gif", b"GIF89a", "image/gif")}}, 415),
        ({"files": {"picture": png()}}, 422),
        ({"files": {"image": png()[:-50]}}, 422),
        ({"files": {"image": (None, "file:///etc/passwd")}}, 422),
        ({"json": {"image": "http://127.0.0.1/x.png"}}, 422),
        ({"files": {"image": hostile.bomb(60_000, 60_000)}}, 413),
        ({"files": {"image": bytes(33 << 20)}}, 413),
    ],
)
def test_bad_input_is_a_problem_and_never_a_500(server: Server, request_: dict[str, Any], status: int) -> None:
    response = server.post(**request_)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"]


def test_a_client_that_leaves_does_not_hold_up_others(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        for request in [pool.submit(_leave_early, server) for _ in range(8)]:
            request.result()
    assert server.report(files={"image": png()}).report == REPORT


def _leave_early(server: Server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/reports",
            files={"image": png()},
            headers=server.headers,
            timeout=httpx.Timeout(30, read=0.02),
        )


def test_a_port_that_is_taken_ends_a_second_service_with_a_message(server: Server) -> None:
    out = subprocess.run(
        command(server.run, "--no-auth", "--port", server.port), capture_output=True, timeout=120, check=False
    )
    assert out.returncode == 2
    assert f"port {server.port} of 127.0.0.1 is in use" in out.stderr.decode()
    assert b"Traceback" not in out.stderr


def test_an_unfinished_run_ends_with_a_message(server: Server, tmp_path: Path) -> None:
    run = tmp_path / "unfinished"
    shutil.copytree(server.run, run)
    shutil.rmtree(run / "stages/adapter")
    out = subprocess.run(
        command(run, "--no-auth", "--port", free_port()), capture_output=True, timeout=120, check=False
    )
    assert out.returncode == 2
    assert "stages/adapter/adapter/adapter_model.safetensors" in out.stderr.decode()
    assert b"Traceback" not in out.stderr
