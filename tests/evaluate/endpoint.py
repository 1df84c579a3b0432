"""A stand-in for an OpenAI-compatible endpoint: HTTP and JSON as the protocol has them, replies by a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, str, str]]
"""Body of a request → status, text, finish reason."""


@dataclass
class Endpoint:
    """Where it listens and what it was asked."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def endpoint(
    answer: Answer, models: tuple[str, ...] | None = ("judge",), raw: tuple[str, str] | None = None
) -> Iterator[Endpoint]:
    """Serve chat completions for the duration of the block.

    Args:
        answer: what is said to a request.
        models: what is listed; None knows no listing of models.
        raw: content type and body of every reply instead, whatever is asked.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.requests.append(body)
            seen.keys.append(self.headers.get("Authorization"))
            status, text, finish = answer(body)
            message = {"role": "assistant", "content": text}
            good = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            }
            self._send(status, good if status == 200 else {"error": {"message": text, "code": status}})

        def do_GET(self) -> None:
            seen.keys.append(self.headers.get("Authorization"))
            listed = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in models or ()]
            self._send(404 if models is None else 200, {"object": "list", "data": listed})

        def _send(self, status: int, body: dict[str, Any]) -> None:
            kind, text = raw or ("application/json", json.dumps(body))
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the base class
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen = Endpoint(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
