"""JSON answers."""

from __future__ import annotations

import json
import logging
import secrets
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_sbx.local.errors import ApiError

log = logging.getLogger("sbx-local")


class Answer(Response):
    """JSON in ASCII: what a process or a client wrote may not be encodable otherwise."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def new_request_id() -> str:
    """Return an id for one request, which its answer carries."""
    return f"req-{secrets.token_hex(8)}"


def refuse(_: Request, error: Exception) -> Response:
    """Answer with an error of ours that a handler raised."""
    assert isinstance(error, ApiError)
    return answer_error(error)


def answer_error(error: ApiError) -> Response:
    """Answer with an error of ours."""
    headers = {"connection": "close"} if error.status == 413 else None
    return Answer(error.body(), status_code=error.status, headers=headers)


def refuse_http(request: Request, error: Exception) -> Response:
    """Answer with an error of the framework: no such path, or not by this method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    body = {"message": f"{request.method} {request.url.path}: {error.detail}", "code": code}
    return Answer(body, status_code=error.status_code, headers=error.headers)


def fail(request: Request, error: Exception) -> Response:
    """Answer where the server itself is wrong."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Answer({"message": "The server failed", "code": "internal_error"}, status_code=500)
