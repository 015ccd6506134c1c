"""From a process's end to a task's: a return value, a skip or a failure that says what happened."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
)

from airflow_provider_sbx.api.errors import (
    AuthenticationError,
    InvalidParameterError,
    NotFoundError,
    ProcessError,
    ProcessFailedError,
    ProcessKilledError,
    ProcessTimedOutError,
    ResponseError,
    SandboxError,
    SandboxNotRunningError,
)
from airflow_provider_sbx.api.models import ProcessStatus
from airflow_provider_sbx.api.output import clean_text
from airflow_provider_sbx.api.steps import Outcome

SESSION_URL_KEY = "session_url"
"""The XCom that holds the address of a sandbox's page: its `sessionUrl`."""

_NOT_IMPLEMENTED = 501
_STDERR_LINES = 10
_STDERR_CHARACTERS = 2_000


def result_of(sandbox_id: str, process_id: str, outcome: Outcome) -> dict[str, Any]:
    """Return the task's result: small and JSON-safe.

    `stdout` and `stderr` are the ends of the output; `stdout_truncated` and `stderr_truncated`
    say that their beginning fell out, `output_lost` that some could not be had at all. Times are
    ISO 8601, or None where the service does not say.
    """
    return {
        "sandbox_id": sandbox_id,
        "process_id": process_id,
        "status": outcome.status.value,
        "exit_code": outcome.exit_code,
        "stdout": outcome.stdout,
        "stderr": outcome.stderr,
        "stdout_truncated": outcome.stdout_truncated,
        "stderr_truncated": outcome.stderr_truncated,
        "output_lost": outcome.output_lost,
        "started_at": _iso(outcome.started_at),
        "completed_at": _iso(outcome.completed_at),
        "error": clean_text(outcome.error) if outcome.error else None,
    }


def raise_unless_success(
    sandbox_id: str, process_id: str, outcome: Outcome, *, skip_on_exit_code: Container[int]
) -> None:
    """Return for a success, and raise for any other end.

    :raises AirflowSkipException: its exit code is one to skip on.
    :raises ProcessError: any other end; which subclass tells which.
    """
    code = outcome.exit_code
    if outcome.status is ProcessStatus.EXITED and code == 0:
        return
    # Some receivers say `failed` of a non-zero exit.
    has_exited = outcome.status in (ProcessStatus.EXITED, ProcessStatus.FAILED)
    if has_exited and code is not None and code in skip_on_exit_code:
        raise AirflowSkipException(f"Process {process_id} ended with exit code {code}: skipping.")
    raise _error(f"Process {process_id} in sandbox {sandbox_id}", outcome)


def _error(who: str, outcome: Outcome) -> ProcessError:
    code = outcome.exit_code
    kind: type[ProcessError] = ProcessFailedError
    match outcome.status:
        case ProcessStatus.TIMED_OUT:
            kind, what = ProcessTimedOutError, "was ended at its timeout"
        case ProcessStatus.KILLED:
            kind, what = ProcessKilledError, "was killed"
        case ProcessStatus.EXITED | ProcessStatus.FAILED if code:
            what = f"failed with exit code {code}"
        case ProcessStatus.FAILED:
            what = "could not be run"
        case _:
            what = f"ended with status {outcome.status}"
    if code is not None and kind is not ProcessFailedError:
        what += f" (exit code {code})"
    if outcome.error:
        what += f": {clean_text(outcome.error).strip()}"
    lines = outcome.stderr.strip().splitlines()[-_STDERR_LINES:]
    if not lines:
        return kind(f"{who} {what}.")
    return kind(f"{who} {what}. The end of its stderr:\n" + "\n".join(lines)[-_STDERR_CHARACTERS:])


def overdue_error(
    sandbox_id: str, process_id: str, how: str, *, execution_timeout: timedelta | None
) -> ProcessTimedOutError:
    """Return the error of a process that used up its time.

    :param how: what came of ending it, in words.
    :param execution_timeout: the task's; None where it was the process's own `timeout`.
    """
    limit = "timeout" if execution_timeout is None else f"execution_timeout of {execution_timeout}"
    return ProcessTimedOutError(
        f"Process {process_id} in sandbox {sandbox_id} used up its time ({limit}): {how}."
    )


def is_lasting(error: SandboxError, *, replaceable_sandbox: bool) -> bool:
    """Whether a retry can't mend an error.

    Such as a wrong parameter, a refused key, a sandbox that is missing or stopped, a user or directory that
    the sandbox does not have.

    :param replaceable_sandbox: the next try makes another sandbox, so that the loss of this one
        is no reason to give up.
    """
    match error:
        case InvalidParameterError() | AuthenticationError():
            return True
        case NotFoundError() | SandboxNotRunningError():
            return not replaceable_sandbox
        case ResponseError():
            is_refused = 400 <= error.status_code < 500 or error.status_code == _NOT_IMPLEMENTED
            return is_refused and not error.retryable
        case _:
            return False


def as_task_failure(error: SandboxError, *, replaceable_sandbox: bool) -> Exception:
    """Return what to raise for an error of the service or of a parameter.

    What a retry can't mend fails the task for good; the rest is raised as it is, and Airflow retries it.

    :param replaceable_sandbox: see `is_lasting`.
    """
    lasting = is_lasting(error, replaceable_sandbox=replaceable_sandbox)
    return AirflowFailException(str(error)) if lasting else error


@contextmanager
def task_failures() -> Iterator[None]:
    """Raise what goes wrong within as a task does; see `as_task_failure`.

    :raises AirflowFailException: no retry can mend it.
    """
    try:
        yield
    except SandboxError as error:
        failure = as_task_failure(error, replaceable_sandbox=False)
        if failure is error:
            raise
        raise failure from error


def _iso(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError):  # no time that a calendar has
        return None
