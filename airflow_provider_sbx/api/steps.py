"""The words of `following`: how to wait, what to do next, what to log, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from airflow_provider_sbx.api.models import ProcessResult, ProcessStatus
from airflow_provider_sbx.api.output import Line


class WaitStrategy(StrEnum):
    """How to wait for a process."""

    STREAM = "stream"
    WAIT = "wait"
    POLL = "poll"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the reader of the log should know about the waiting itself."""

    text: str
    warning: bool = False


Entry = Line | Notice


@dataclass(frozen=True)
class Outcome:
    """How a process ended. Times in milliseconds since 1970.

    :param output_lost: some output could not be had, so that neither the log nor the ends are whole.
    """

    status: ProcessStatus
    exit_code: int | None
    started_at: int | None
    completed_at: int | None
    error: str | None
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    output_lost: bool

    @classmethod
    def of(
        cls, result: ProcessResult, stdout: tuple[str, bool], stderr: tuple[str, bool], *, lost: bool
    ) -> Outcome:
        """Return the outcome of a result.

        :param stdout: the end of it, and whether its beginning fell out.
        :param stderr: likewise.
        :param lost: some output could not be had.
        """
        return cls(
            status=result.status,
            exit_code=result.exit_code,
            started_at=result.started_at,
            completed_at=result.completed_at,
            error=result.error,
            stdout=stdout[0],
            stderr=stderr[0],
            stdout_truncated=stdout[1],
            stderr_truncated=stderr[1],
            output_lost=lost,
        )


@dataclass(frozen=True)
class OpenStream:
    """Follow the stream from this sequence number."""

    from_seq: int


@dataclass(frozen=True)
class AskWait:
    """Long-poll for the result for so many seconds."""

    timeout_seconds: float


@dataclass(frozen=True)
class AskStatus:
    """Read the process."""


@dataclass(frozen=True, slots=True)
class AskPoll:
    """Look at the process now and then, with all others of its sandbox, until it has ended.

    :param interval_seconds: longest pause between two looks, in seconds.
    :param created_after: what the list can be narrowed by, in milliseconds since 1970; None for nothing.
    :param is_first: answer after the next look, also where the process still runs.
    """

    interval_seconds: float
    created_after: int | None = None
    is_first: bool = False


@dataclass(frozen=True)
class AskSandbox:
    """Read the sandbox."""


@dataclass(frozen=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Finished:
    """There is nothing more to ask."""

    outcome: Outcome


Step = OpenStream | AskWait | AskStatus | AskPoll | AskSandbox | Pause | Finished
