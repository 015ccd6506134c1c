"""What both clients share: from a call to an HTTP request, and from what came back to our errors."""

from __future__ import annotations

import functools
import logging
import ssl
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import httpx
from tenacity import RetryCallState

from airflow_provider_sbx import __version__
from airflow_provider_sbx.api.calls import Answer, Call
from airflow_provider_sbx.api.decode import decode_answer, decode_error
from airflow_provider_sbx.api.errors import (
    InvalidParameterError,
    OutcomeUnknownError,
    SandboxNotRunningError,
    ServiceError,
    StreamBrokenError,
    TransportError,
)
from airflow_provider_sbx.api.events import IDLE_SECONDS, Event, Started
from airflow_provider_sbx.api.models import ProcessSummary, Sandbox
from airflow_provider_sbx.api.outage import Repeats, teller
from airflow_provider_sbx.api.planes import Plane, RuntimeAccess, control_url, runtime_url
from airflow_provider_sbx.api.retrying import RetryPolicy, is_outcome_unknown

log = logging.getLogger(__name__)

USER_AGENT = f"airflow-provider-sbx/{__version__}"

_TIDY_AT = 1000
"""So many sandboxes are remembered before those are looked for that can be forgotten."""

KEEPALIVE_SECONDS = 60.0
"""Longer than any pause between two looks at a process, so that polling reuses its connection."""


_HEADERS = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": USER_AGENT}
_STREAM_HEADERS = _HEADERS | {"Accept": "text/event-stream", "Accept-Encoding": "identity"}


@functools.lru_cache(maxsize=4096)
def _url(text: str) -> httpx.URL:
    """Parse an address once: that is half of making a request, and a process is asked many times."""
    return httpx.URL(text)


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return this process's TLS context, built at the first call (20 to 30 ms)."""
    return httpx.create_ssl_context()


@dataclass(frozen=True)
class StartedStream:
    """A process that was just started.

    :param process: what the service says of it.
    :param events: its events from the first on; None where the receiver only starts, and the
        stream is to be opened separately.
    """

    process: ProcessSummary
    events: Any  # Iterator[Event] or AsyncIterator[Event], by the twin that made it


class Wire:
    """What both twins share: turning a call into an HTTP request, and failures into errors."""

    def __init__(
        self, api_key: str, base_url: str | None, request_timeout_seconds: float, policy: RetryPolicy | None
    ) -> None:
        if not api_key or not api_key.strip():
            raise InvalidParameterError("api_key", "it is empty", "Give the key of the sandbox service.")
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key.strip():
            # It could not stand in a header; the key itself is not shown.
            raise InvalidParameterError(
                "api_key",
                "it holds characters that no key has",
                "Copy it again, without spaces or line ends.",
            )
        self._api_key = api_key.strip()
        self.base_url = control_url(base_url)
        self.request_timeout_seconds = request_timeout_seconds
        self.policy = policy or RetryPolicy()
        self._access: dict[str, RuntimeAccess] = {}
        self._pages: dict[str, str | None] = {}
        self._tidy_at = _TIDY_AT

    def request(
        self, call: Call[Any], access: RuntimeAccess | None, *, streamed: bool = False
    ) -> httpx.Request:
        """Return the request.

        :param access: the sandbox's, for a call of the runtime plane.
        :param streamed: the answer is an event stream, if the service has one.
        """
        if call.plane is Plane.CONTROL:
            url, auth = self.base_url + call.path, {"x-api-key": self._api_key}
        else:
            assert access is not None
            url, auth = runtime_url(access.base_url, call.path), {"Authorization": f"Bearer {access.token}"}
        if call.query:
            url += f"?{urlencode(call.query)}"
        longest = self.request_timeout_seconds
        # Heartbeats come every 15 s, so that a stream silent for this long is dead.
        read = IDLE_SECONDS if streamed else longest + call.held_seconds
        return httpx.Request(
            call.method,
            _url(url),
            headers=(_STREAM_HEADERS if streamed else _HEADERS) | auth,
            json=call.body,
            extensions={"timeout": {"connect": longest, "read": read, "write": longest, "pool": longest}},
        )

    def retrying(self, call: Call[Any]) -> dict[str, Any]:
        """Return what tenacity needs to repeat a call; its patience begins with the first failure."""
        repeats = Repeats(call, self.policy, teller.get() or log.log)

        def again(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if error is not None:
                return repeats.failed(error, time.monotonic())
            repeats.answered(time.monotonic())
            return False

        # Of a failure that is not to be repeated, tenacity raises the error itself.
        return {"retry": again, "wait": lambda state: repeats.pause_seconds}

    def cached_access(self, sandbox_id: str) -> RuntimeAccess | None:
        """Return the sandbox's access, if there is one that will last for a request."""
        access = self._access.get(sandbox_id)
        return access if access and not access.needs_renewal(datetime.now(UTC)) else None

    def page_of(self, sandbox_id: str) -> str | None:
        """Return the sandbox's page for people, as far as a detail read for its access told it."""
        return self._pages.get(sandbox_id)

    def keep_access(self, sandbox: Sandbox) -> RuntimeAccess:
        """Keep and return the access that a sandbox's detail brings.

        :raises SandboxNotRunningError: it brings none, since the sandbox does not run.
        """
        self._tidy()
        self._pages[sandbox.id] = sandbox.page
        if not sandbox.token or sandbox.runtime is None:
            self._access.pop(sandbox.id, None)
            why = f" ({sandbox.close_reason})" if sandbox.close_reason else ""
            raise SandboxNotRunningError(
                f"Sandbox {sandbox.id} is {sandbox.status}{why}, so that nothing can run in it. "
                "It was stopped or reached its timeout_minutes",
                status_code=409,
                code="sandbox_not_running",
            )
        access = RuntimeAccess(sandbox.runtime.base_url, sandbox.token, sandbox.token_expires_at)
        self._access[sandbox.id] = access
        return access

    def _tidy(self) -> None:
        """Forget the sandboxes whose tokens ran out, as those do that nobody asks any more.

        A triggerer's client may live for months, and see a sandbox a task.
        """
        if len(self._pages) < self._tidy_at:
            return
        now = datetime.now(UTC)
        self._access = {key: each for key, each in self._access.items() if not each.needs_renewal(now)}
        self._pages = {key: page for key, page in self._pages.items() if key in self._access}
        self._tidy_at = max(_TIDY_AT, 2 * len(self._pages))


def need(sandbox_id: str | None) -> str:
    """Return the sandbox id that a call of the runtime plane needs."""
    if not sandbox_id:
        raise InvalidParameterError("sandbox_id", "it is missing", "Name the sandbox to ask.")
    return sandbox_id


@dataclass(frozen=True)
class Failures:
    """What a transport below httpx raises where no answer came.

    :param kinds: its exceptions, beside those of httpx and of the system.
    :param unsent: those of them that come before a request is sent.
    """

    kinds: tuple[type[Exception], ...] = ()
    unsent: tuple[type[Exception], ...] = ()


@contextmanager
def transport_errors(call: Call[Any], below: Failures = Failures()) -> Iterator[None]:
    """Turn what is raised where no answer came into our error."""
    kinds: tuple[type[Exception], ...] = (httpx.HTTPError, httpx.InvalidURL, OSError, *below.kinds)
    try:
        yield
    except kinds as error:
        raise _transport_error(call, error, below) from error


def _transport_error(call: Call[Any], error: Exception, below: Failures) -> TransportError:
    # httpx-aiohttp 0.2 gives httpx.ConnectTimeout for a refused connection as well as for a server
    # that hung up amid an answer, so that on its transport only the cause tells which it was.
    cause = error.__cause__
    if isinstance(cause, (OSError, *below.kinds)):
        unsent = isinstance(cause, below.unsent)
        timed_out = isinstance(cause, TimeoutError)
    else:
        unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        timed_out = isinstance(error, httpx.TimeoutException | TimeoutError)
    kind = "timed out" if timed_out else "failed"
    detail = str(error).strip() or type(error).__name__
    return TransportError(f"Could not {call.what}: the connection {kind} ({detail})", surely_unsent=unsent)


def decoded(call: Call[Answer], response: httpx.Response) -> Answer:
    """Return a read response as the call's answer."""
    return decode_answer(call, response.status_code, response.headers, response.content, now=time.time())


def stream_error(call: Call[Any], response: httpx.Response) -> ServiceError | None:
    """Return why an opened answer is no event stream, once it has been read; None if it is one."""
    if not response.is_success:
        return decode_error(call, response.status_code, response.headers, response.content, now=time.time())
    if is_stream(response):
        return None
    return StreamBrokenError(
        f"To {call.what}, the service answered {response.status_code} with "
        f"{response.headers.get('content-type', 'no content type')} instead of an event stream"
    )


def is_stream(response: httpx.Response) -> bool:
    """Whether an opened response is the event stream that was asked for."""
    return response.is_success and "text/event-stream" in response.headers.get("content-type", "")


def started(event: Event | None) -> ProcessSummary:
    """Return what a streaming start's first event says."""
    if not isinstance(event, Started):
        raise StreamBrokenError("The stream of a start did not begin with `started`")
    return event.process


@contextmanager
def before_the_call() -> Iterator[None]:
    """Mark the errors of getting a token: the call that needs it was not sent yet."""
    try:
        yield
    except ServiceError as error:
        error.surely_unsent = True
        raise


@contextmanager
def clear_outcome(call: Call[Any], sandbox_id: str) -> Generator[None]:
    """Say so where a start may or may not have happened."""
    try:
        yield
    except _ReaderError as error:
        raise error.error from error.error.__cause__
    except ServiceError as error:
        if is_outcome_unknown(call, error):
            raise OutcomeUnknownError(f"{call.what} in sandbox {sandbox_id}", error) from error
        raise


class _ReaderError(Exception):
    """Carries what the reader of a started stream raised past `clear_outcome`."""

    def __init__(self, error: ServiceError) -> None:
        self.error = error


@contextmanager
def unclouded() -> Generator[None]:
    """Mark the errors of whoever reads a started stream: that start did happen."""
    try:
        yield
    except ServiceError as error:
        raise _ReaderError(error) from error
