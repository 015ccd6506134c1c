"""What a task makes of the event that it is resumed with: the error it tells of, or the whole outcome."""

from __future__ import annotations

from typing import Any

from airflow_provider_sbx.api.conversations import read_result
from airflow_provider_sbx.api.errors import (
    AuthenticationError,
    InvalidParameterError,
    NotFoundError,
    SandboxError,
    SandboxNotRunningError,
    ServiceError,
)
from airflow_provider_sbx.api.models import ProcessStatus
from airflow_provider_sbx.api.steps import Outcome
from airflow_provider_sbx.hooks.sandbox import SandboxHook
from airflow_provider_sbx.triggers.event import ProcessEvent


def error_of(end: ProcessEvent) -> SandboxError:
    """Return the error that ended the trigger's waiting."""
    message = end.error or "The wait failed"
    match end.failure:
        case "sandbox_not_running":
            return SandboxNotRunningError(message, status_code=409, code="sandbox_not_running")
        case "refused":
            return AuthenticationError(message, status_code=401)
        case "not_found":
            return NotFoundError(message, status_code=404)
        case "invalid":
            return InvalidParameterError("sbx_conn_id", message, "Mend the connection.")
        case _:
            return ServiceError(message, retryable=True)


def fetched(
    hook: SandboxHook, end: ProcessEvent, status: ProcessStatus, *, output_bytes: int, log: Any
) -> Outcome:
    """Return the outcome with the output that the sandbox still holds: one request.

    :param status: how the process ended.
    :param output_bytes: how much of each of stdout and stderr is kept, in bytes.
    :param log: the task's logger.
    """
    result = None
    try:
        result = hook.get_conn().converse(end.sandbox_id, read_result(end.process_id))
    except ServiceError as error:
        log.warning("The output for the result could not be read; the log has it. %s", error)
    return end.outcome(status, result, output_bytes=output_bytes)
