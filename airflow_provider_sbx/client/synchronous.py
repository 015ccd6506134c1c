"""The client for synchronous code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from tenacity import Retrying

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
    KEEPALIVE_SECONDS,
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
from airflow_provider_sbx.operations import SandboxOperations


class SandboxClient(SandboxOperations):
    """The service, for synchronous code. Close it, or use it as a context manager.

    :param api_key: the service's API key.
    :param base_url: the control plane's address; the vendor's if None.
    :param request_timeout_seconds: longest wait for an answer, in seconds, beside the time that a
        long-poll is held on purpose.
    :param policy: how failures are repeated.
    :param transport: an httpx transport instead of the network's, for tests.
    :raises InvalidParameterError: the key or the address can't be one.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str | None = None,
        *,
        request_timeout_seconds: float = DEFAULT_REQUEST_TIMEOUT_SECONDS,
        policy: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._wire = Wire(api_key, base_url, request_timeout_seconds, policy)
        self._http = httpx.Client(
            transport=transport,
            verify=tls_context() if transport is None else True,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_SECONDS),
        )

    def __enter__(self) -> SandboxClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def policy(self) -> RetryPolicy:
        """How failures are repeated."""
        return self._wire.policy

    def page_of(self, sandbox_id: str) -> str | None:
        """Return a sandbox's page for people, if a call to the sandbox brought it; asks for nothing."""
        return self._wire.page_of(sandbox_id)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, call: Call[Answer], sandbox_id: str | None = None, *, retry: bool = True) -> Answer:
        """Send a call and return its answer; see `SandboxOperations.send`."""
        try:
            return self._send_once(call, sandbox_id)
        except ServiceError as error:
            if not (retry and may_repeat(call, error)):
                raise
            failed = [error]

        def again() -> Answer:
            if failed:
                raise failed.pop()  # tenacity's first attempt was made above
            return self._send_once(call, sandbox_id)

        # Not before it is needed: tenacity takes a good part of what a request takes.
        answer: Answer = Retrying(**self._wire.retrying(call))(again)
        return answer

    def converse(self, sandbox_id: str, conversation: Conversation[Result]) -> Result:
        """Hold a conversation with a sandbox's runtime plane and return its result."""
        try:
            call = next(conversation)
            while True:
                try:
                    answer = self.send(call, sandbox_id)
                except ServiceError as error:
                    call = conversation.throw(error)
                else:
                    call = conversation.send(answer)
        except StopIteration as stop:
            result: Result = stop.value
            return result

    @contextmanager
    def stream(self, sandbox_id: str, process_id: str, *, from_seq: int = 1) -> Iterator[Iterator[Event]]:
        """Follow a process's events from a sequence number; see `SandboxOperations.stream`."""
        call = calls.stream(process_id, from_seq=from_seq)
        with self._open(call, sandbox_id) as response:
            if error := stream_error(call, response):
                raise error
            yield self._events(call, response)

    @contextmanager
    def start_streaming(self, sandbox_id: str, params: ProcessParameters) -> Iterator[StartedStream]:
        """Start a process and read its events from the very first; see `StartedStream`.

        :raises OutcomeUnknownError: it may or may not have been started.
        """
        call = calls.start_process(params)
        with clear_outcome(call, sandbox_id), self._open(call, sandbox_id) as response:
            if not is_stream(response):
                begun = StartedStream(decoded(call, response).process, None)
            else:
                events = self._events(call, response)
                begun = StartedStream(started(next(events, None)), events)
            with unclouded():
                yield begun

    def _send_once(self, call: Call[Answer], sandbox_id: str | None) -> Answer:
        if call.plane is Plane.CONTROL:
            return self._exchange(call, None)
        sandbox_id = need(sandbox_id)
        access = self._runtime_access(sandbox_id)
        try:
            return self._exchange(call, access)
        except AuthenticationError as error:
            if error.status_code != 401:
                raise
        return self._exchange(call, self._renewed_access(sandbox_id))

    def _exchange(self, call: Call[Answer], access: RuntimeAccess | None) -> Answer:
        with transport_errors(call):
            response = self._http.send(self._wire.request(call, access))
        return decoded(call, response)

    def _runtime_access(self, sandbox_id: str) -> RuntimeAccess:
        return self._wire.cached_access(sandbox_id) or self._renewed_access(sandbox_id)

    def _renewed_access(self, sandbox_id: str) -> RuntimeAccess:
        with before_the_call():
            return self._wire.keep_access(self._exchange(calls.get_sandbox(sandbox_id), None))

    @contextmanager
    def _open(self, call: Call[Any], sandbox_id: str) -> Iterator[httpx.Response]:
        """Open a streamed answer, renewing the token once; an error's body is read already."""
        response = self._send_stream(call, self._runtime_access(sandbox_id))
        try:
            if response.status_code == 401:
                response.close()
                response = self._send_stream(call, self._renewed_access(sandbox_id))
            if not is_stream(response):
                with transport_errors(call):
                    response.read()
            yield response
        finally:
            response.close()

    def _send_stream(self, call: Call[Any], access: RuntimeAccess) -> httpx.Response:
        with transport_errors(call):
            return self._http.send(self._wire.request(call, access, streamed=True), stream=True)

    def _events(self, call: Call[Any], response: httpx.Response) -> Iterator[Event]:
        decoder, chunks = EventDecoder(), response.iter_bytes()
        while True:
            with transport_errors(call):
                chunk = next(chunks, None)
            if chunk is None:
                return
            for event in decoder.feed(chunk):
                if isinstance(event, Started):
                    # What fails from here on is no start any more, and must not be called one.
                    call = calls.stream(event.process.id)
                yield event
