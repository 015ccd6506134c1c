"""What a task makes of the event that it is resumed with: the error it tells of, or the whole outcome."""

from __future__ import annotations

from typing import Any

from airflow_provider_sbx.api.errors import (
    AuthenticationError,
    InvalidParameterError,
    NotFoundError,
    SandboxError,
    SandboxNotRunningError,
    ServiceError,
)
from airflow_provider_sbx.api.models import ProcessStatus
from airflow_provider_sbx.api.output import bounded_tail
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
    stdout = stderr = ""
    lost = end.output_lost
    try:
        result = hook.wait(end.sandbox_id, end.process_id, timeout_seconds=5.0)
        stdout, stderr = result.stdout, result.stderr
    except ServiceError as error:
        lost = True
        log.warning("The output for the result could not be read; the log has it. %s", error)
    stdout, stdout_cut = bounded_tail(stdout, output_bytes)
    stderr, stderr_cut = bounded_tail(stderr, output_bytes)
    return Outcome(
        status=status,
        exit_code=end.exit_code,
        started_at=end.started_at,
        completed_at=end.completed_at,
        error=end.error,
        stdout=stdout,
        stderr=stderr,
        stdout_truncated=stdout_cut,
        stderr_truncated=stderr_cut,
        output_lost=lost,
    )
