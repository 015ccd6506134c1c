"""What a trigger tells the task that it waited for: small, JSON-safe, checked before it is read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_sbx.api.errors import SandboxError
from airflow_provider_sbx.api.models import ProcessResult, ProcessStatus
from airflow_provider_sbx.api.output import bounded_tail
from airflow_provider_sbx.api.steps import Outcome

# What the waiting itself may fail of; each is an error class of `api.errors` by its role, but for
# `lasting`: what no other try can mend, told in words.
Failure = Literal[
    "sandbox_not_running", "refused", "not_found", "unavailable", "invalid", "service", "lasting"
]


class ProcessEvent(BaseModel):
    """The end of a wait.

    The output is not in it: Airflow writes an event into the task's log and its database.

    :param sandbox_id: where the process ran.
    :param process_id: the process.
    :param status: how it ended; None where that could not be learned.
    :param exit_code: its exit code, if it has one.
    :param started_at: in milliseconds since 1970.
    :param completed_at: in milliseconds since 1970.
    :param error: what the service says of the end.
    :param output_lost: some of the output could not be had.
    :param deadline_passed: it was ended since its time was up; `error` says what came of it.
    :param failure: why the waiting failed, where it did; `error` says what happened.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    sandbox_id: str
    process_id: str
    status: ProcessStatus | None = None
    exit_code: int | None = None
    started_at: int | None = None
    completed_at: int | None = None
    error: str | None = None
    output_lost: bool = False
    deadline_passed: bool = False
    failure: Failure | None = None

    @classmethod
    def of(cls, sandbox_id: str, process_id: str, outcome: Outcome) -> ProcessEvent:
        """Return the event of a process that ended."""
        return cls(
            sandbox_id=sandbox_id,
            process_id=process_id,
            status=outcome.status,
            exit_code=outcome.exit_code,
            started_at=outcome.started_at,
            completed_at=outcome.completed_at,
            error=outcome.error,
            output_lost=outcome.output_lost,
        )

    def outcome(self, status: ProcessStatus, result: ProcessResult | None, *, output_bytes: int) -> Outcome:
        """Return the outcome with the output that the sandbox still holds.

        :param status: how the process ended.
        :param result: what the service says of it; None where it could not be asked.
        :param output_bytes: how much of each of stdout and stderr is kept, in bytes.
        """
        stdout, stdout_cut = bounded_tail(result.stdout if result else "", output_bytes)
        stderr, stderr_cut = bounded_tail(result.stderr if result else "", output_bytes)
        return Outcome(
            status=status,
            exit_code=self.exit_code,
            started_at=self.started_at,
            completed_at=self.completed_at,
            error=self.error,
            stdout=stdout,
            stderr=stderr,
            stdout_truncated=stdout_cut,
            stderr_truncated=stderr_cut,
            output_lost=self.output_lost or result is None,
        )

    @classmethod
    def read(cls, payload: Any) -> ProcessEvent:
        """Return the event that a task was resumed with.

        :raises SandboxError: it is missing or odd; that is a failure, never a success.
        """
        try:
            return cls.model_validate(payload)
        except ValidationError:
            raise SandboxError(
                "The task was resumed without a readable event of its process's end; whether it succeeded "
                "is not known. Is the triggerer's airflow-provider-sbx of the same version as the worker's?"
            ) from None
