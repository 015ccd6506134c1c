"""From an answer's status, headers and bytes to a model, or to an error that says what happened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic import ValidationError

from airflow_provider_sbx.api.calls import Answer, Call
from airflow_provider_sbx.api.errors import (
    AuthenticationError,
    DecodeError,
    NotFoundError,
    ProcessExitedError,
    ReplayWindowExpiredError,
    ResponseError,
    SandboxNotRunningError,
    WaitTimeoutError,
)
from airflow_provider_sbx.api.parsing import parse_json
from airflow_provider_sbx.api.planes import Plane

RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})

# Codes that come with a retryable status but that waiting can't mend (the vendor's clients
# hold the same list).
_LASTING_CODES = frozenset(
    {
        "SECRETS_ADMIN_REQUIRED",
        "SECRETS_NOT_CONFIGURED",
        "SECRET_KEY_UNAVAILABLE",
        "SECRET_DECRYPT_FAILED",
        "SECRET_ENVELOPE_INVALID",
        "SECRET_VALUE_INVALID",
    }
)
_SHOUTED_CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_HTML_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_EXCERPT_CHARACTERS = 200


def decode_answer(
    call: Call[Answer], status_code: int, headers: Mapping[str, str], body: bytes, *, now: float
) -> Answer:
    """Return the answer of a call as its model.

    :param headers: the answer's headers; looked up in lower case.
    :param now: seconds since 1970, to read a `Retry-After` that is a date.
    :raises ResponseError: the status is an error; which subclass tells what to do.
    :raises DecodeError: the status is a success and the body is not what was asked for.
    """
    if not 200 <= status_code < 300:
        raise decode_error(call, status_code, headers, body, now=now)
    request_id = _request_id(headers)
    try:
        payload = parse_json(body)
    except ValueError:
        raise DecodeError(
            f"To {call.what}, the service answered {status_code} with {_describe(body)} instead of JSON; "
            "check that the address is the service's and that no proxy stands in between",
            request_id=request_id,
        ) from None
    if call.unwrap is not None:
        payload = payload.get(call.unwrap) if isinstance(payload, dict) else None
    try:
        return call.answer.model_validate(payload)
    except ValidationError as error:
        # Not chained, and without the input: the answer may hold a token.
        where = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or call.unwrap or 'body'}: {e['msg']}"
            for e in error.errors(include_url=False, include_input=False)[:3]
        )
        raise DecodeError(
            f"To {call.what}, the service answered something that can't be read ({where})",
            request_id=request_id,
        ) from None


def decode_error(
    call: Call[Any], status_code: int, headers: Mapping[str, str], body: bytes, *, now: float
) -> ResponseError:
    """Return the error that an error status stands for; see `decode_answer`."""
    try:
        payload = parse_json(body)
    except ValueError:
        payload = None
    members: dict[str, Any] = payload if isinstance(payload, dict) else {}
    code = _code(members)
    said = members.get("message") or members.get("error")
    said = said if isinstance(said, str) and said.strip() else f"it sent {_describe(body)}"
    kind, remedy = _kind(call, status_code, code)
    retryable = status_code in RETRYABLE_STATUSES
    if call.plane is Plane.CONTROL:
        # The control plane knows when a failure is safe to repeat; the runtime's flag may be its
        # proxy's, which calls its own gateway errors lasting whatever their cause.
        flag = members.get("retryable")
        retryable = flag if isinstance(flag, bool) else retryable and code not in _LASTING_CODES
    message = f"Could not {call.what}: the service answered {status_code}, {_one_line(said)}"
    return kind(
        f"{message}. {remedy}" if remedy else message,
        status_code=status_code,
        code=code,
        retryable=retryable,
        retry_after_seconds=parse_retry_after(headers.get("retry-after"), now=now),
        request_id=_request_id(headers),
    )


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Return how many seconds a `Retry-After` header asks to wait, or None where it says nothing.

    :param value: seconds, or an HTTP date (RFC 9110, section 10.2.3).
    :param now: seconds since 1970.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return None
    # "nan" and "inf" are floats to Python; no service means them.
    return max(0.0, seconds) if seconds < 1e9 else None


def _kind(call: Call[Any], status_code: int, code: str | None) -> tuple[type[ResponseError], str]:
    """Return the class for an error status, and what the reader can do about it."""
    if status_code == 401 and call.plane is Plane.CONTROL:
        return AuthenticationError, "Check the API key (the connection's password)"
    if status_code == 401:
        return AuthenticationError, "The sandbox's token was refused even after it had been renewed"
    if status_code == 403:
        return AuthenticationError, "The API key may not do this; use one with the right scope"
    if code == "sandbox_not_running":
        return SandboxNotRunningError, "The sandbox was stopped or reached its timeout_minutes"
    if status_code == 404:
        return NotFoundError, "Check the id: it does not exist, is no longer kept, or is another team's"
    if status_code == 408 and call.path.endswith("/wait"):
        return WaitTimeoutError, ""
    if status_code == 409 and call.path.endswith("/stdin"):
        return ProcessExitedError, "The process no longer reads its input"
    if status_code == 410 or code == "replay_window_expired":
        return ReplayWindowExpiredError, ""
    return ResponseError, ""


def _code(members: Mapping[str, Any]) -> str | None:
    """Return the service's own code; some routes put it into `error`, beside a `message`."""
    code, error = members.get("code"), members.get("error")
    if isinstance(code, str) and code.strip():
        return code
    if members.get("message") and isinstance(error, str) and _SHOUTED_CODE.fullmatch(error):
        return error
    return None


def _request_id(headers: Mapping[str, str]) -> str | None:
    return headers.get("x-request-id") or headers.get("request-id")


def _describe(body: bytes) -> str:
    """Say in a few words what a body that isn't JSON is."""
    text = body[:4096].decode("utf-8", "replace").strip()
    if not text:
        return "an empty body"
    if text[:1] == "<":
        title = _HTML_TITLE.search(text)
        return f"an HTML page ({_one_line(title[1])})" if title and title[1].strip() else "an HTML page"
    if text[:1] in "{[":
        return "JSON that is cut off or of an unknown form"
    return f"{_one_line(text)!r}"


def _one_line(text: str) -> str:
    joined = " ".join(text.split()).rstrip(".")
    return joined if len(joined) <= _EXCERPT_CHARACTERS else joined[:_EXCERPT_CHARACTERS] + "..."
