"""The client for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import httpx
from tenacity import AsyncRetrying

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.calls import Answer, Call
from airflow_provider_sbx.api.conversations import Conversation, Result
from airflow_provider_sbx.api.errors import AuthenticationError, ServiceError
from airflow_provider_sbx.api.events import Event, Started
from airflow_provider_sbx.api.models import ProcessParameters
from airflow_provider_sbx.api.planes import Plane, RuntimeAccess
from airflow_provider_sbx.api.retrying import DEFAULT_REQUEST_TIMEOUT_SECONDS, RetryPolicy, may_repeat
from airflow_provider_sbx.api.sse import EventDecoder
from airflow_provider_sbx.client.wire import (
    StartedStream,
    Wire,
    before_the_call,
    clear_outcome,
    decoded,
    is_stream,
    need,
    started,
    stream_error,
    tls_context,
    transport_errors,
    unclouded,
)
from airflow_provider_sbx.operations import AsyncSandboxOperations

if TYPE_CHECKING:
    from airflow_provider_sbx.client.connections import Connections


class AsyncSandboxClient(AsyncSandboxOperations):
    """The service, for an event loop; see `SandboxClient` for the parameters.

    Make it by `await AsyncSandboxClient.make(...)`, which builds the TLS context off the loop.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str | None = None,
        *,
        request_timeout_seconds: float = DEFAULT_REQUEST_TIMEOUT_SECONDS,
        policy: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._wire = Wire(api_key, base_url, request_timeout_seconds, policy)
        self._http = _connections()(transport)
        # Weak: a lock is there for as long as somebody renews that sandbox's token.
        self._renewals: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @classmethod
    async def make(cls, api_key: str, base_url: str | None = None, **options: Any) -> AsyncSandboxClient:
        """Return a client, without holding the event loop while its TLS context is built."""
        await asyncio.to_thread(_connections)
        await asyncio.to_thread(tls_context)
        return cls(api_key, base_url, **options)

    async def __aenter__(self) -> AsyncSandboxClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def policy(self) -> RetryPolicy:
        """How failures are repeated."""
        return self._wire.policy

    def page_of(self, sandbox_id: str) -> str | None:
        """Return a sandbox's page for people, if a call to the sandbox brought it; asks for nothing."""
        return self._wire.page_of(sandbox_id)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, call: Call[Answer], sandbox_id: str | None = None, *, retry: bool = True) -> Answer:
        """Send a call and return its answer; see `SandboxOperations.send`."""
        try:
            return await self._send_once(call, sandbox_id)
        except ServiceError as error:
            if not (retry and may_repeat(call, error)):
                raise
            failed = [error]

        async def again() -> Answer:
            if failed:
                raise failed.pop()  # tenacity's first attempt was made above
            return await self._send_once(call, sandbox_id)

        # Not before it is needed: tenacity takes a good part of what a request takes.
        answer: Answer = await AsyncRetrying(**self._wire.retrying(call))(again)
        return answer

    async def converse(self, sandbox_id: str, conversation: Conversation[Result]) -> Result:
        """Hold a conversation with a sandbox's runtime plane and return its result."""
        try:
            call = next(conversation)
            while True:
                try:
                    answer = await self.send(call, sandbox_id)
                except ServiceError as error:
                    call = conversation.throw(error)
                else:
                    call = conversation.send(answer)
        except StopIteration as stop:
            result: Result = stop.value
            return result

    @asynccontextmanager
    async def stream(
        self, sandbox_id: str, process_id: str, *, from_seq: int = 1
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Follow a process's events from a sequence number; see `SandboxOperations.stream`."""
        call = calls.stream(process_id, from_seq=from_seq)
        async with self._open(call, sandbox_id) as response:
            if error := stream_error(call, response):
                raise error
            async with aclosing(self._events(call, response)) as events:
                yield events

    @asynccontextmanager
    async def start_streaming(
        self, sandbox_id: str, params: ProcessParameters
    ) -> AsyncIterator[StartedStream]:
        """Start a process and read its events from the very first; see `StartedStream`.

        :raises OutcomeUnknownError: it may or may not have been started.
        """
        call = calls.start_process(params)
        with clear_outcome(call, sandbox_id):
            async with self._open(call, sandbox_id) as response, AsyncExitStack() as leave:
                if not is_stream(response):
                    begun = StartedStream(decoded(call, response).process, None)
                else:
                    events = await leave.enter_async_context(aclosing(self._events(call, response)))
                    begun = StartedStream(started(await anext(events, None)), events)
                with unclouded():
                    yield begun

    async def _send_once(self, call: Call[Answer], sandbox_id: str | None) -> Answer:
        if call.plane is Plane.CONTROL:
            return await self._exchange(call, None)
        sandbox_id = need(sandbox_id)
        access = await self._runtime_access(sandbox_id)
        try:
            return await self._exchange(call, access)
        except AuthenticationError as error:
            if error.status_code != 401:
                raise
        return await self._exchange(call, await self._renewed_access(sandbox_id, access))

    async def _exchange(self, call: Call[Answer], access: RuntimeAccess | None) -> Answer:
        with transport_errors(call, self._http.failures):
            response = await self._http.send(self._wire.request(call, access))
        return decoded(call, response)

    async def _runtime_access(self, sandbox_id: str) -> RuntimeAccess:
        return self._wire.cached_access(sandbox_id) or await self._renewed_access(sandbox_id, None)

    async def _renewed_access(self, sandbox_id: str, refused: RuntimeAccess | None) -> RuntimeAccess:
        """Renew the sandbox's token, once for all that wait for it at the same time."""
        async with self._renewals.setdefault(sandbox_id, asyncio.Lock()):
            access = self._wire.cached_access(sandbox_id)
            if access is not None and access is not refused:
                return access
            with before_the_call():
                return self._wire.keep_access(await self._exchange(calls.get_sandbox(sandbox_id), None))

    @asynccontextmanager
    async def _open(self, call: Call[Any], sandbox_id: str) -> AsyncIterator[httpx.Response]:
        """Open a streamed answer, renewing the token once; an error's body is read already."""
        access = await self._runtime_access(sandbox_id)
        response = await self._send_stream(call, access)
        try:
            if response.status_code == 401:
                await response.aclose()
                response = await self._send_stream(call, await self._renewed_access(sandbox_id, access))
            if not is_stream(response):
                with transport_errors(call, self._http.failures):
                    await response.aread()
            yield response
        finally:
            await response.aclose()

    async def _send_stream(self, call: Call[Any], access: RuntimeAccess) -> httpx.Response:
        with transport_errors(call, self._http.failures):
            return await self._http.send(self._wire.request(call, access, streamed=True), stream=True)

    async def _events(self, call: Call[Any], response: httpx.Response) -> AsyncGenerator[Event]:
        decoder, chunks = EventDecoder(), response.aiter_bytes()
        while True:
            with transport_errors(call, self._http.failures):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            for event in decoder.feed(chunk):
                if isinstance(event, Started):
                    # What fails from here on is no start any more, and must not be called one.
                    call = calls.stream(event.process.id)
                yield event


def _connections() -> type[Connections]:
    # Here, since synchronous code needs no aiohttp, which takes a tenth of a second to import: it builds two
    # TLS contexts of its own.
    from airflow_provider_sbx.client.connections import Connections

    return Connections
