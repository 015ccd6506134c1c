"""The embedded server in plain HTTP: what it answers must not depend on a client of ours."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

Event = tuple[str, Any]
KEY = "contract-key"


class LocalServer:
    """A server with options of its own, as a process; its `url`, `api_key` and `process`."""

    def __init__(self, *options: str, env: dict[str, str] | None = None, user: int | None = None) -> None:
        self.api_key = KEY
        self.process = subprocess.Popen(
            [sys.executable, "-m", "airflow_provider_sbx.local.cli", "serve", *options],
            env={**os.environ, "SBX_LOCAL_API_KEY": KEY, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=user,
            group=user,
            extra_groups=[] if user is not None else None,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        line = self.process.stdout.readline()
        assert line.startswith("ready: http://127.0.0.1:"), "".join(self.log)
        self.url = line.removeprefix("ready: ").strip()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def stop(self) -> int:
        """End it, and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self._reader.join(5)
            for pipe in (self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()


class Box:
    """One sandbox of a server, spoken to in plain HTTP."""

    def __init__(self, server: Any, **spec: Any) -> None:
        self.control = httpx.Client(
            base_url=f"{server.url}/api", headers={"x-api-key": server.api_key}, timeout=30
        )
        body = spec.pop("detail", None)
        if body is None:
            answer = self.control.post("/sandbox", json={"imageName": "python", **spec})
            answer.raise_for_status()
            body = answer.json()
        self.detail: dict[str, Any] = body
        self.id: str = body["id"]
        self.runtime = httpx.Client(
            base_url=body["runtime"]["baseUrl"],
            headers={"authorization": f"Bearer {body['token']}"},
            timeout=30,
        )

    def exec(self, command: str, **params: Any) -> dict[str, Any]:
        answer = self.runtime.post("/exec", json={"command": command, **params})
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()["result"]
        return result

    def start(self, command: str, **params: Any) -> str:
        answer = self.runtime.post("/processes", json={"command": command, **params})
        assert answer.status_code == 200, answer.text
        process_id: str = answer.json()["process"]["id"]
        return process_id

    def get(self, process_id: str) -> dict[str, Any]:
        summary: dict[str, Any] = self.runtime.get(f"/processes/{process_id}").json()["process"]
        return summary

    def wait(self, process_id: str, **body: Any) -> dict[str, Any]:
        answer = self.runtime.post(f"/processes/{process_id}/wait", json=body)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()["result"]
        return result

    def stdin(self, process_id: str, **body: Any) -> httpx.Response:
        return self.runtime.post(f"/processes/{process_id}/stdin", json=body)

    def signal(self, process_id: str, name: object) -> httpx.Response:
        return self.runtime.post(f"/processes/{process_id}/signal", json={"signal": name})

    def kill(self, process_id: str) -> dict[str, Any]:
        answer = self.runtime.delete(f"/processes/{process_id}")
        assert answer.status_code == 200, answer.text
        summary: dict[str, Any] = answer.json()["process"]
        return summary

    @contextlib.contextmanager
    def following(self, process_id: str, **query: Any) -> Iterator[Iterator[Event]]:
        with self.runtime.stream("GET", f"/processes/{process_id}/stream", params=query) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield decoded(answer.iter_lines())

    @contextlib.contextmanager
    def starting(self, command: str, **params: Any) -> Iterator[Iterator[Event]]:
        with self.runtime.stream(
            "POST",
            "/processes",
            json={"command": command, **params},
            headers={"accept": "text/event-stream"},
        ) as answer:
            assert answer.status_code == 200, answer.read()
            yield decoded(answer.iter_lines())

    def events(self, process_id: str, **query: Any) -> list[Event]:
        with self.following(process_id, **query) as events:
            return [event for event in events if event[0] != "comment"]

    def close(self) -> None:
        self.control.put(f"/sandbox/{self.id}/stop")
        self.control.close()
        self.runtime.close()


def decoded(lines: Iterator[str]) -> Iterator[Event]:
    """Yield the events of a stream, and its comments as `comment`."""
    name = "message"
    for line in lines:
        if line.startswith(":"):
            yield "comment", line[1:].strip()
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@pytest.fixture(scope="session")
def local_server() -> Iterator[Callable[..., LocalServer]]:
    """Start servers with options, each once unless a `fresh` one is asked for: to be ended by a test."""
    servers: dict[Any, LocalServer] = {}

    def start(*options: str, fresh: bool = False, **more: Any) -> LocalServer:
        key = object() if fresh else (options, repr(more))
        if key not in servers:
            servers[key] = LocalServer(*options, **more)
        return servers[key]

    yield start
    for server in servers.values():
        server.process.terminate()
    for server in servers.values():
        server.stop()


@pytest.fixture(scope="module")
def box_of() -> Iterator[Callable[..., Box]]:
    """Make sandboxes on a server; they are stopped at the end of the module."""
    boxes: list[Box] = []

    def make(server: Any, **spec: Any) -> Box:
        boxes.append(Box(server, **spec))
        return boxes[-1]

    yield make
    for box in boxes:
        with contextlib.suppress(httpx.TransportError):
            box.close()


@pytest.fixture(scope="module")
def box(sbx_local: Any, box_of: Callable[..., Box]) -> Box:
    """A sandbox of the shared server."""
    return box_of(sbx_local)


@pytest.fixture(scope="session")
def isolation(sbx_local: Any) -> str:
    """How the shared server isolates its sandboxes."""
    name: str = httpx.get(f"{sbx_local.url}/healthz", timeout=30).json()["isolation"]
    return name
