"""A server on loopback that records what it is asked, and answers what suits any client."""

from __future__ import annotations

import json
import threading
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PATH_BOX, HOST_BOX = "path-box", "host-box"
"""Two sandboxes: one has its id in the path of its `baseUrl`, the other a host of its own."""

_SUMMARY = {"id": "proc-1", "status": "running", "command": "true", "cwd": "/", "started_at": 1}
_RESULT = {**_SUMMARY, "status": "exited", "exit_code": 0, "stdout": "", "stderr": "", "last_seq": 0}
_LISTS = {
    "/api/sandboxes": {"sandboxes": [], "totalCount": 0, "page": 1, "perPage": 10},
    "/api/images": {"images": [], "totalCount": 0},
    "/api/snapshots": {"snapshots": [], "totalCount": 0},
}


@dataclass(frozen=True)
class Request:
    """What a client put on the wire."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    key: str | None
    bearer: str | None
    content_type: str | None
    wants_stream: bool
    body: Any
    agent: str = field(compare=False)


class Recorder(ThreadingHTTPServer):
    """The server; `cases` holds what was asked since `POST /mark/<case>`, by case."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cases: dict[str, list[Request]] = {}
        self.case = ""
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def mark(self, case: str) -> None:
        """Begin a case."""
        mark = urllib.request.Request(f"{self.url}/mark/{case}", method="POST")
        urllib.request.urlopen(mark, timeout=10).close()

    def stop(self) -> None:
        """End it."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Recorder

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        target = urlsplit(self.path)
        if target.path.startswith("/mark/"):
            self.server.case = target.path.removeprefix("/mark/")
            self.server.cases[self.server.case] = []
            self._send({})
            return
        request = Request(
            self.command,
            target.path,
            tuple(sorted(parse_qsl(target.query, keep_blank_values=True))),
            self.headers.get("x-api-key"),
            self.headers.get("authorization"),
            self.headers.get("content-type"),
            "text/event-stream" in self.headers.get("accept", ""),
            json.loads(body) if body else None,
            self.headers.get("user-agent", ""),
        )
        self.server.cases.setdefault(self.server.case, []).append(request)
        if request.wants_stream:
            self._send_events(started=request.method == "POST")
        else:
            self._send(self._body(request))

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _body(self, request: Request) -> Any:
        if request.path in _LISTS:
            return _LISTS[request.path]
        last = request.path.rpartition("/")[2]
        if last in ("exec", "wait"):
            return {"result": _RESULT}
        if last in ("stdin", "stop"):
            return {"success": True}
        if last == "processes" and request.method == "GET":
            return {"data": [], "next_cursor": None}
        if "/processes" in request.path:
            return {"process": _SUMMARY, "secrets": []}
        return self._sandbox(last)

    def _sandbox(self, sandbox_id: str) -> Any:
        url = self.server.url
        return {
            "id": sandbox_id,
            "teamId": "team",
            "status": "active",
            "region": "us-east",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "updatedAt": "2026-01-01T00:00:00.000Z",
            "sessionUrl": f"{url}/sessions/{sandbox_id}",
            "duration": 0,
            "runtime": {
                "transport": "regional_proxy",
                "host": url.partition("//")[2],
                "baseUrl": url if sandbox_id == HOST_BOX else f"{url}/sandbox/{sandbox_id}",
            },
            "token": f"token-of-{sandbox_id}",
            "tokenExpiresAt": "2126-01-01T00:00:00.000Z",
        }

    def _send(self, body: Any) -> None:
        self._send_bytes(json.dumps(body).encode(), "application/json")

    def _send_events(self, *, started: bool) -> None:
        events = [*([("started", _SUMMARY)] if started else []), ("done", _RESULT)]
        text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
        self._send_bytes(text.encode(), "text/event-stream")

    def _send_bytes(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""
