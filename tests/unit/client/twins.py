"""Both clients behind one face, so that one scenario proves both.

A `Service` stands where the network would: it takes each request and gives the answers that a
scenario has queued for its path, and answers reads of the sandbox by itself.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Any

import httpx

from airflow_provider_sbx.api.retrying import RetryPolicy
from airflow_provider_sbx.client import AsyncSandboxClient, SandboxClient
from tests.unit.builders import API_KEY, CONTROL, SANDBOX, sandbox_body

QUICK = RetryPolicy(
    patience_seconds=30.0,
    first_delay_seconds=0.001,
    longest_delay_seconds=0.002,
    longest_retry_after_seconds=0.05,
)
IMPATIENT = replace(QUICK, patience_seconds=0.5)
"""For a service that never comes back: others must bear a machine that stands still for a second."""


class Service:
    """A transport for both twins."""

    def __init__(self, **sandbox: Any) -> None:
        self.requests: list[httpx.Request] = []
        self.sandbox = sandbox_body(**sandbox)
        self._answers: dict[tuple[str, str], list[Any]] = defaultdict(list)
        self._tokens = 0

    def queue(self, method: str, path: str, *answers: Any) -> None:
        """Answer requests for a path in this order; a dict is a JSON body of a success."""
        for answer in answers:
            if isinstance(answer, dict):
                answer = httpx.Response(200, json=answer)
            self._answers[method, path].append(answer)

    def queue_late(self, method: str, path: str, answer: Callable[[], dict[str, Any]]) -> None:
        """Answer by what is known only once it is asked for."""
        self._answers[method, path].append(answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        queued = self._answers[request.method, request.url.path]
        if queued:
            answer = queued.pop(0)
            if isinstance(answer, Exception):
                raise answer
            if not isinstance(answer, httpx.Response):
                answer = httpx.Response(200, json=answer())
            if isinstance(answer.stream, Chunks):
                return answer
            # A fresh one: a response is read by one client, and tests of both twins share it.
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        if (request.method, request.url.path) == ("GET", f"/api/sandbox/{SANDBOX}"):
            self._tokens += 1
            return httpx.Response(200, json=self.sandbox | {"token": f"token-{self._tokens}"})
        raise AssertionError(f"nothing is queued for {request.method} {request.url}")

    async def answer_async(self, request: httpx.Request) -> httpx.Response:
        return self.answer(request)

    def asked(self, method: str | None = None) -> list[str]:
        """Return what was asked so far, without the reads of the sandbox."""
        reads = f"/api/sandbox/{SANDBOX}"
        return [
            f"{request.method} {request.url.raw_path.decode()}"
            for request in self.requests
            if request.url.path != reads and method in (None, request.method)
        ]

    @property
    def token_reads(self) -> int:
        return sum(request.url.path == f"/api/sandbox/{SANDBOX}" for request in self.requests)


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in pieces, and may break in between."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = chunks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class Held(Chunks):
    """A body that stays open after its first pieces; only on an event loop."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk
        await asyncio.Event().wait()


def held_stream(*chunks: bytes) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Held(*chunks))


def event_stream(*chunks: bytes | Exception) -> httpx.Response:
    return httpx.Response(
        200, headers={"content-type": "text/event-stream; charset=utf-8"}, stream=Chunks(*chunks)
    )


class Sync:
    """The synchronous client."""

    def __init__(self, service: Service, policy: RetryPolicy = QUICK, base_url: str = CONTROL) -> None:
        self.client = SandboxClient(
            API_KEY, base_url, policy=policy, transport=httpx.MockTransport(service.answer)
        )

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        return getattr(self.client, name)(*args, **options)

    @contextmanager
    def reading(self, name: str, *args: Any, **options: Any) -> Iterator[tuple[Any, Iterator[Any]]]:
        with getattr(self.client, name)(*args, **options) as opened:
            yield opened, iter(getattr(opened, "events", opened) or ())

    def iterate(self, name: str, *args: Any, **options: Any) -> list[Any]:
        return list(getattr(self.client, name)(*args, **options))

    def close(self) -> None:
        self.client.close()


class Async:
    """The client for an event loop, each operation run on a loop of the test's own."""

    def __init__(self, service: Service, policy: RetryPolicy = QUICK, base_url: str = CONTROL) -> None:
        self._runner = asyncio.Runner()
        self.client = AsyncSandboxClient(
            API_KEY, base_url, policy=policy, transport=httpx.MockTransport(service.answer_async)
        )

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        async def run() -> Any:
            return await getattr(self.client, name)(*args, **options)

        return self._runner.run(run())

    @contextmanager
    def reading(self, name: str, *args: Any, **options: Any) -> Iterator[tuple[Any, Iterator[Any]]]:
        async def run() -> tuple[Any, list[Any], Exception | None]:
            events: list[Any] = []
            async with AsyncExitStack() as stack:
                opened = await stack.enter_async_context(getattr(self.client, name)(*args, **options))
                try:
                    async for event in getattr(opened, "events", opened) or _none():
                        events.append(event)
                except Exception as error:  # noqa: BLE001 - handed to whoever reads on
                    return opened, events, error
            return opened, events, None

        opened, events, broken = self._runner.run(run())

        def replay() -> Iterator[Any]:
            yield from events
            if broken is not None:
                raise broken

        yield opened, replay()

    def iterate(self, name: str, *args: Any, **options: Any) -> list[Any]:
        async def run() -> list[Any]:
            return [item async for item in getattr(self.client, name)(*args, **options)]

        return self._runner.run(run())

    def close(self) -> None:
        self._runner.run(self.client.close())
        self._runner.close()


async def _none() -> AsyncIterator[Any]:
    return
    yield
