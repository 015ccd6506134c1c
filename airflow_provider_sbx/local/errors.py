"""What the server refuses, in the words and codes of the service."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An answer that is an error.

    :param status: the HTTP status.
    :param code: what a program can tell it by.
    :param message: what a person is told.
    :param details: more, for a program.
    """

    def __init__(self, status: int, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        body: dict[str, Any] = {"message": self.message, "code": self.code}
        if self.details is not None:
            body["details"] = self.details
        return body


def invalid(message: str, code: str = "invalid_request") -> ApiError:
    """Answer that something in the request can't be so."""
    return ApiError(400, code, message)


def unauthorized(message: str) -> ApiError:
    """Answer that the key or the token is missing, wrong or expired."""
    return ApiError(401, "unauthorized", message)


def sandbox_not_found(sandbox_id: str) -> ApiError:
    """Answer that there is no such sandbox."""
    return ApiError(404, "sandbox_not_found", f"Sandbox {sandbox_id} not found")


def sandbox_not_running(sandbox_id: str) -> ApiError:
    """Answer that the sandbox has been stopped or has timed out."""
    return ApiError(409, "sandbox_not_running", f"Sandbox {sandbox_id} is not running")


def process_not_found(process_id: str) -> ApiError:
    """Answer that there is no such process, or that it has been forgotten."""
    return ApiError(404, "process_not_found", f"Process {process_id} not found")


def process_not_running(process_id: str) -> ApiError:
    """Answer that the process has ended."""
    return ApiError(409, "process_not_running", f"Process {process_id} has exited")


def wait_timed_out(process_id: str, seconds: float) -> ApiError:
    """Answer that the process still runs at the end of a wait."""
    return ApiError(
        408, "wait_timeout", f"Waiting for process {process_id} timed out after {round(seconds * 1000)} ms"
    )


def replay_window_expired() -> ApiError:
    """Answer that output that was asked for is no longer retained."""
    return ApiError(410, "replay_window_expired", "Replay window expired")


def not_supported(what: str) -> ApiError:
    """Answer that this server does not have a part of the service."""
    return ApiError(501, "not_supported", f"The local sandbox server has no {what}; it runs processes only")
