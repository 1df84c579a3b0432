"""Judges at a real OpenAI-compatible endpoint: vLLM's own server, held to the schemas.

The model is tiny and has random weights, so that what it counts means nothing; that every reply can be read is what
the protocol and the schema promise.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from boxmed_ray.config import JudgeConfig, ModelConfig
from boxmed_ray.evaluate import gema, green
from boxmed_ray.evaluate.judge import Judge, JudgeError, fill
from boxmed_ray.model.tiny import build_tiny

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

_START_S = 240
REPORTS = ("The heart is enlarged.", "Left pleural effusion. The heart is normal.")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base address of a vLLM server of a tiny model, named ``judge``."""
    folder = tmp_path_factory.mktemp("judge")
    words = [green.QUESTION, gema.QUESTION, *REPORTS, '{"explanation": "a", "matched": 1}']
    build_tiny(
        ModelConfig(hidden_size=64, layers=2, vision_hidden_size=64, vision_layers=1), 112, words, 0, folder / "m"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "m")),
        *("--served-model-name", "judge", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
        *("--block-size", "32", "--max-model-len", "4096", "--max-num-seqs", "8", "--disable-log-stats"),
        *("--limit-mm-per-prompt", '{"image": 0, "video": 0}', "--kv-cache-memory-bytes", str(1 << 28)),
        # Without it a schema allows white space without end, and a model of random weights writes nothing else.
        *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        family = [server, *psutil.Process(server.pid).children(recursive=True)] if server.poll() is None else []
        server.terminate()
        for process in psutil.wait_procs([psutil.Process(p.pid) for p in family if psutil.pid_exists(p.pid)], 20)[1]:
            process.kill()


def test_a_model_held_to_the_schema_gives_verdicts_that_can_be_read(url: str, tmp_path: Path) -> None:
    for metric in (green, gema):
        questions = [fill(metric.QUESTION, REPORTS[0], said) for said in REPORTS]
        config = JudgeConfig(url=url, model="judge", max_tokens=2048)
        replies = Judge(config, tmp_path).ask(questions, metric.SCHEMA)
        verdicts = [metric.read_schema(reply) for reply in replies]
        assert all(verdict is not None and 0 <= verdict.score <= 1 for verdict in verdicts), replies
        assert Judge(config, tmp_path).ask(questions, metric.SCHEMA) == replies


def test_a_model_that_is_not_served_is_told_apart(url: str, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"'another' .*refuses: 404 .*model"):
        Judge(JudgeConfig(url=url, model="another"), tmp_path).ask(["a"])


def test_a_question_longer_than_the_context_is_told(url: str, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"refuses: 400 .*longer than its context"):
        Judge(JudgeConfig(url=url, model="judge"), tmp_path).ask(["word " * 20_000])


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"no answer within {_START_S} s:\n{log.read_text(errors='replace')[-3000:]}")
